"""Clips: from a file to windows of one second of sound with one keyframe each.

Window k is [k, k + 1) s of the clip's own clock; its keyframe is the native frame nearest to k + 15/16 s by timestamp,
which is AVSBench's rule (Zhou et al., "Audio-Visual Segmentation", ECCV 2022: the last of 16 frames a second).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from av2t_core.frames import LONGEST_STILL, Frame, Frames
from av2t_core.soundtrack import Sound, Soundtrack

KEYFRAME_OFFSET = 15 / 16
"""Seconds from the start of a window to its keyframe."""

SHORTEST_WINDOW = 0.5
"""Seconds that a last window must have."""

_MISSING = 0.5  # seconds of what the container promises, from which on it is said
_TIMESTAMP_ERROR = 1e-6


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
    sound: Sound  # [k, k + 1) s


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What is known about a clip once it has been decoded."""

    width: int  # pixels, as displayed
    height: int
    fps: float  # average
    frame_count: int  # decoded
    duration: float  # seconds, from the clip's start to the end of its last frame
    has_audio: bool
    keyframes: tuple[Keyframe, ...]
    remarks: tuple[str, ...]  # sentences about what was left out or guessed


class Clip:
    """A clip by its path: one decoding pass, in memory that does not grow with its length; a context manager.

    Pixels are the stored ones: where they are not square a remark says so, and nothing is scaled.
    The first video and the first audio stream are used, as browsers do.
    A second before the first frame or inside a jump of the clock is no window, so indices may begin after 0.
    MediaError: the file is no clip that can be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frames = Frames(path)
        try:
            self._sound = Soundtrack(path)
        except BaseException:
            self._frames.__exit__()
            raise
        self._keyframes: list[Keyframe] = []
        self._jumps: list[str] = []
        self._shape = (0, 0)
        self._info: ClipInfo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._frames.__exit__()
        self._sound.__exit__()

    @property
    def has_audio(self) -> bool:
        return self._sound.rate > 0

    @property
    def expected_windows(self) -> int | None:
        """How many windows will come, as far as the container tells; for progress bars."""
        promised = self._frames.promised
        return None if promised is None else max(1, floor(promised + 1 - SHORTEST_WINDOW))

    @property
    def info(self) -> ClipInfo:
        if self._info is None:
            raise RuntimeError("a clip is known once windows() is exhausted")
        return self._info

    def windows(self) -> Iterator[Window]:
        """Decode the clip, once. MediaError: not one frame can be decoded."""
        for index, frame in self._chosen():
            keyframe = Keyframe(index=index, frame=frame.number, time=frame.time)
            image = frame.rgb()
            self._keyframes.append(keyframe)
            self._shape = image.shape[:2]
            yield Window(keyframe=keyframe, image=image, sound=self._sound.second(index))
        height, width = self._shape
        self._info = ClipInfo(
            width=width,
            height=height,
            fps=self._frames.rate,
            frame_count=self._frames.count,
            duration=self._frames.end - self._frames.zero,
            has_audio=self.has_audio,
            keyframes=tuple(self._keyframes),
            remarks=tuple(self._remarks()),
        )

    def _chosen(self) -> Iterator[tuple[int, Frame]]:
        """Each window's index with its keyframe."""
        index = 0
        previous: Frame | None = None
        for frame in self._frames:
            if previous is not None and frame.time - previous.end > LONGEST_STILL:
                self._jumps.append(f"The timestamps jump from {previous.end:.1f} s to {frame.time:.1f} s.")
                yield from self._last(index, previous)
                previous = None
            if previous is None:
                index = max(index, floor(frame.time))
            while frame.time >= (target := index + KEYFRAME_OFFSET):
                earlier = previous is not None and target - previous.time <= frame.time - target
                yield index, (previous if previous is not None and earlier else frame)
                index += 1
            previous = frame
        if previous is not None:
            yield from self._last(index, previous)

    def _last(self, index: int, frame: Frame) -> Iterator[tuple[int, Frame]]:
        """The windows that `frame`, after which nothing follows, is the keyframe of."""
        while not self._keyframes or frame.end - index >= SHORTEST_WINDOW - _TIMESTAMP_ERROR:
            yield index, frame
            index += 1

    def _remarks(self) -> Iterator[str]:
        frames, sound = self._frames, self._sound
        yield from frames.remarks()
        yield from self._jumps
        yield from sound.remarks(frames.start, frames.end)
        missing = (frames.promised or 0) - (max(frames.end, sound.end) - frames.zero)
        if missing > _MISSING:
            yield f"The file ends {missing:.1f} s before the length that it promises: it is incomplete."
