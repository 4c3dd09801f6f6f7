"""Objects at keyframes → tracks of boxes and ranges of time, in the frames that Label Studio counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Self

from av2t_core.prediction import Box

if TYPE_CHECKING:
    from av2t_core.media.clip import ClipInfo

PRECISION = 2.0  # pixels by which a box between two keyframes of a track may be off


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The frames of a clip as its page counts them: from 1, by the frame rate that its tag is given."""

    rate: float  # frames a second
    duration: float  # seconds, from where the page's clock is 0
    step: float = 1.0  # seconds from one keyframe to the next, and so what a window stands for

    @classmethod
    def of_clip(cls, info: "ClipInfo", rate: float) -> Self:
        """A browser's clock is the clip's own: where that begins at 20 s, the page's first twenty seconds are empty."""
        return cls(rate=rate, duration=info.start + info.duration, step=info.step)

    @property
    def count(self) -> int:
        return max(1, round(self.duration * self.rate))

    def at(self, time: float) -> int:
        """The frame that is nearest to a time in seconds."""
        return self._within(round(time * self.rate) + 1)

    def window(self, first: int, last: int) -> tuple[int, int]:
        """The first and the last frame of windows `first` to `last`."""
        frames = self.step * self.rate
        return self._within(ceil(first * frames - 1e-6) + 1), self._within(ceil((last + 1) * frames - 1e-6))

    def _within(self, frame: int) -> int:
        return min(max(1, frame), self.count)


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An object that sounds, in one window. `names`: what it may be called, the likeliest first."""

    number: int  # that of the object in its clip
    names: tuple[str, ...]
    window: int
    time: float  # seconds, of its keyframe
    box: Box
    score: float  # 0..1


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A box of a track from `frame` on; between two marks it moves in a straight line. After the last it is gone."""

    frame: int
    box: Box
    last: bool = False


def runs(sightings: Sequence[Sighting]) -> list[list[Sighting]]:
    """Those of windows that follow one another, together."""
    found: list[list[Sighting]] = []
    for sighting in sightings:
        if not found or sighting.window > found[-1][-1].window + 1:
            found.append([])
        found[-1].append(sighting)
    return found


def marks(sightings: Sequence[Sighting], clock: Clock) -> list[Mark]:
    """Of one object as few as keep its box within PRECISION of where it was seen. It is there in all of each window."""
    found: list[Mark] = []
    for run in runs(sightings):
        first, last = clock.window(run[0].window, run[-1].window)
        boxes = {first: run[0].box, **{clock.at(sighting.time): sighting.box for sighting in run}, last: run[-1].box}
        frames = sorted(boxes)
        found += [Mark(frame=frame, box=boxes[frame], last=frame == frames[-1]) for frame in _needed(frames, boxes)]
    return found


def _needed(frames: Sequence[int], boxes: Mapping[int, Box]) -> list[int]:
    """The first and the last of the frames, and of those between them what a straight line would miss by too much.

    The algorithm of Ramer, Douglas and Peucker, by the corners of the boxes.
    """
    import numpy as np

    times = np.array(frames, np.float64)
    corners = np.array([(x, y, x + width, y + height) for x, y, width, height in (boxes[frame] for frame in frames)])
    needed, open_ = {0, len(frames) - 1}, [(0, len(frames) - 1)]
    while open_:
        left, right = open_.pop()
        if right - left < 2:
            continue
        share = ((times[left : right + 1] - times[left]) / (times[right] - times[left]))[:, None]
        line = corners[left] + share * (corners[right] - corners[left])
        off = np.abs(corners[left : right + 1] - line).max(axis=1)
        worst = left + int(off.argmax())
        if off.max() > PRECISION:
            needed.add(worst)
            open_ += [(left, worst), (worst, right)]
    return [frames[i] for i in sorted(needed)]
