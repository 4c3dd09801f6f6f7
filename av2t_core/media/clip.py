"""Clips: from a file to windows of one second of sound with one keyframe each.

Window k is [k, k + 1) s of the clip's own clock; its keyframe is the native frame nearest to k + 15/16 s by timestamp,
which is AVSBench's rule (Zhou et al., "Audio-Visual Segmentation", ECCV 2022: the last of 16 frames a second).

Keyframes may also be closer together or further apart, `step` seconds: then keyframe k is the one nearest to the middle
of [k * step, (k + 1) * step), and its window is the second around that.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from av2t_core.limits import CLIP_REMARKS
from av2t_core.media.frames import LONGEST_STILL, Frame, Frames
from av2t_core.media.sound import Sound, Soundtrack

KEYFRAME_OFFSET = 15 / 16  # seconds from the start of a window to its keyframe
SHORTEST_WINDOW = 0.5  # the part of its seconds that a last window must have
_MISSING = 0.5  # seconds of what the container promises, from which on it is said
_TIMESTAMP_ERROR = 1e-6
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """The native frame that stands for a window."""

    index: int  # k of its window
    frame: int  # 0-based, presentation order
    time: float  # seconds, the clip's own timestamps


@dataclass(frozen=True, kw_only=True)
class Window:
    """One second of a clip."""

    keyframe: Keyframe
    image: NDArray[np.uint8]  # (H, W, 3) RGB at native size, as a person sees it: rotation applied
    sound: Sound


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What is known about a clip once it has been decoded."""

    width: int  # pixels, as displayed
    height: int
    fps: float  # average
    frame_count: int  # decoded
    start: float  # seconds on the clip's own clock at which it begins; that of a broadcast may begin hours after 0
    duration: float  # seconds, from the clip's start to the end of its last frame
    audible: bool  # whether its sound can be decoded and is more than digital silence
    step: float  # seconds from one keyframe to the next
    keyframes: tuple[Keyframe, ...]
    remarks: tuple[str, ...]  # sentences about what was left out or guessed


class Clip:
    """A clip by its path: one decoding pass, in memory that does not grow with its length; a context manager.

    Pixels are the stored ones: where they are not square a remark says so, and nothing is scaled.
    The first video and the first audio stream are used, as browsers do.
    A second before the first frame or inside a jump of the clock is no window, so indices may begin after 0.
    MediaError: the file is no clip that can be used.
    """

    def __init__(self, path: Path, *, per_second: int = 1, most: int | None = None) -> None:
        """`per_second`: keyframes, as far as there are frames. Where that makes more than `most`, they are spread.

        By what is in the file, which is read for it: a header may promise anything.
        """
        with ExitStack() as opened:
            self._frames = opened.enter_context(Frames(path))
            self._sound = opened.enter_context(Soundtrack(path))
            self._opened = opened.pop_all()
        extent = None if per_second == 1 and most is None else self._frames.extent()
        self._step = 1.0 if per_second == 1 or extent is None else max(1 / per_second, 1 / extent.rate)
        promised = self._frames.promised
        self.expected_windows = None if promised is None else self._count([(0.0, promised)])
        """How many windows will come, as far as that is known; for progress bars."""
        self._most, self._spread = most, False
        if most is not None and extent is not None:
            self._spread_over(most, extent.spans)
        self._keyframes: list[Keyframe] = []
        self._left_out: float | None = None  # seconds: the first keyframe beyond `most`
        self._jumps: list[str] = []
        self._jump_count = 0
        self._info: ClipInfo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    @property
    def info(self) -> ClipInfo:
        if self._info is None:
            raise RuntimeError("a clip is known once windows() is exhausted")
        return self._info

    def windows(self) -> Iterator[Window]:
        """Decode the clip, once. MediaError: not one frame can be decoded."""
        for index, frame in self._chosen():
            if len(self._keyframes) == self._most:  # the packets' timestamps are not those of the frames in them
                self._left_out = frame.time if self._left_out is None else self._left_out
                continue
            keyframe = Keyframe(index=index, frame=frame.number, time=frame.time)
            image = frame.rgb()
            self._keyframes.append(keyframe)
            yield Window(keyframe=keyframe, image=image, sound=self._sound.second(self._sound_start(index)))
        self._info = ClipInfo(
            width=image.shape[1],
            height=image.shape[0],
            fps=self._frames.rate,
            frame_count=self._frames.count,
            start=self._frames.zero,
            duration=self._frames.end - self._frames.zero,
            audible=self._sound.audible,
            step=self._step,
            keyframes=tuple(self._keyframes),
            remarks=tuple(self._remarks()),
        )

    def _chosen(self) -> Iterator[tuple[int, Frame]]:
        """Each window's index with its keyframe."""
        index, previous = 0, None
        for frame in self._frames:
            if previous is not None and frame.time - previous.end > LONGEST_STILL:
                self._jump_count += 1
                if self._jump_count <= CLIP_REMARKS:
                    self._jumps.append(f"The timestamps jump from {previous.end:.1f} s to {frame.time:.1f} s.")
                yield from self._last(index, previous)
                previous = None
            if previous is None:
                index = max(index, floor(frame.time / self._step))
            while frame.time >= (target := self._keyframe_time(index)):
                sooner = frame.time - target + _TIMESTAMP_ERROR
                yield index, (previous if previous is not None and target - previous.time <= sooner else frame)
                index += 1
            previous = frame
        if previous is not None:
            yield from self._last(index, previous)

    def _last(self, index: int, frame: Frame) -> Iterator[tuple[int, Frame]]:
        """The windows that `frame`, after which nothing follows, is the keyframe of."""
        while not self._keyframes or frame.end - index * self._step >= SHORTEST_WINDOW * self._step - _TIMESTAMP_ERROR:
            yield index, frame
            index += 1

    def _spread_over(self, most: int, spans: Sequence[tuple[float, float]]) -> None:
        """Have no more windows than `most` in a picture that lasts so."""
        promised = self._frames.promised
        lasts = sum(end - start for start, end in spans)
        if promised is not None and abs(promised - lasts) <= _MISSING:  # the same, but for how it is rounded
            lasts = promised
        least = self._step
        self._step = max(least, lasts / most)
        while (count := self._count(spans)) > most:  # a picture that begins late has one more
            self._step *= 1 + 1 / most
        self.expected_windows, self._spread = count, self._step > least

    def _count(self, spans: Sequence[tuple[float, float]]) -> int:
        """Of the windows that `_chosen` finds in pictures that last so."""
        count = index = 0
        for start, end in spans:
            index = max(index, floor(start / self._step))
            beyond = max(floor(end / self._step + 1 - SHORTEST_WINDOW + _ROUNDING), index)
            count, index = count + beyond - index, beyond
        return max(1, count)

    def _keyframe_time(self, index: int) -> float:
        """Seconds at which the keyframe of a window should be."""
        return index + KEYFRAME_OFFSET if self._step == 1 else (index + 0.5) * self._step

    def _sound_start(self, index: int) -> float:
        """Seconds at which a window begins; the first of close ones begin with the clip."""
        return index if self._step == 1 else max(0.0, self._keyframe_time(index) - 0.5)

    def _remarks(self) -> Iterator[str]:
        frames, sound = self._frames, self._sound
        if self._spread:
            yield f"It is long: one keyframe every {self._step:.1f} s, {len(self._keyframes)} in all."
        yield from frames.remarks()
        if self._left_out is not None:
            yield f"What comes after {self._left_out:.1f} s is left out: it has {self._most} keyframes by then."
        yield from self._jumps
        if self._jump_count > len(self._jumps):
            yield f"The timestamps jump {self._jump_count - len(self._jumps)} times more."
        yield from sound.remarks(frames.start, frames.end)
        missing = self._missing(max(frames.end, sound.end))
        if missing > _MISSING:  # of all that is in the file, which may go on after the picture
            missing = self._missing(frames.last_packet())
        if missing > _MISSING:
            yield f"The file ends {missing:.1f} s before the length that it promises: it is incomplete."

    def _missing(self, end: float) -> float:
        """Seconds that the file promises beyond `end`."""
        promised = self._frames.promised or 0.0
        # Some containers count from zero on the clip's clock.
        return min(promised - (end - self._frames.zero), abs(promised - end))
