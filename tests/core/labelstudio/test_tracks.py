from pathlib import Path

import numpy as np
import pytest

from av2t_core.labelstudio.controls.timeline import TimelineLabels
from av2t_core.labelstudio.controls.video_rectangle import VideoRectangle
from av2t_core.labelstudio.tracks import PRECISION, Clock, Mark, Sighting, marks, runs
from av2t_core.media.clip import Clip
from av2t_core.prediction import Box
from tests.core.clips import at_rate, write_clip

CLOCK = Clock(rate=25, duration=10)


def seen(window: int, x: float = 10, *, y: float = 20) -> Sighting:
    return Sighting(number=1, names=("dog",), window=window, time=window + 15 / 16, box=(x, y, 30, 40), score=0.5)


def test_frames_are_counted_from_one_by_the_rate_of_the_tag() -> None:
    assert CLOCK.count == 250
    assert [CLOCK.at(time) for time in (0, 0.04, 15 / 16, 9.99, 12)] == [1, 2, 24, 250, 250]
    assert CLOCK.window(0, 0) == (1, 25)
    assert CLOCK.window(3, 5) == (76, 150)
    assert Clock(rate=29.97, duration=3.2).window(2, 3) == (61, 96)
    assert Clock(rate=25, duration=0.01).window(0, 0) == (1, 1)
    assert Clock(rate=25, duration=10, step=0.2).window(3, 4) == (16, 25)
    assert Clock(rate=25, duration=10, step=2.5).window(1, 1) == (64, 125)


@pytest.mark.parametrize("start", [0, 20, 3600])
def test_a_clip_whose_clock_begins_late_has_its_frames_late(tmp_path: Path, start: int) -> None:
    """Chromium's `currentTime` begins at 20 s with such a clip, and that is what a page counts frames by."""
    with Clip(write_clip(tmp_path / "clip.mkv", at_rate(24, 5, start=start))) as clip:
        windows = [window.keyframe for window in clip.windows()]
    clock = Clock.of_clip(clip.info, 24)

    assert clip.info.start == pytest.approx(start, abs=0.01)
    assert clock.count == 24 * (start + 5)
    assert clock.window(windows[0].index, windows[-1].index) == (24 * start + 1, 24 * (start + 5))
    assert [clock.at(each.time) for each in windows] == [24 * (start + k) + 24 - 1 for k in range(5)]


def test_the_regions_of_a_clip_whose_clock_begins_late(shared: Path) -> None:
    with Clip(shared / "cases" / "late" / "late20.mp4") as clip:
        things = [seen(window.keyframe.index) for window in clip.windows()]
    clock = Clock.of_clip(clip.info, clip.info.fps)
    size = clip.info.height, clip.info.width

    [(_, timeline)] = TimelineLabels().write(things, clock, size)
    [(_, track)] = VideoRectangle().write(things, clock, size)
    assert timeline == {"ranges": [{"start": 481, "end": 600}]}
    assert [(mark["frame"], mark["enabled"]) for mark in track["sequence"]] == [(481, True), (600, False)]
    assert track["framesCount"] >= 600


def test_windows_that_follow_one_another_are_one_run() -> None:
    assert [[s.window for s in run] for run in runs([seen(0), seen(1), seen(1), seen(3)])] == [[0, 1, 1], [3]]


def test_a_thing_that_stands_still_takes_two_marks() -> None:
    box = (10, 20, 30, 40)
    assert marks([seen(2), seen(3), seen(4)], CLOCK) == [
        Mark(frame=51, box=box),
        Mark(frame=125, box=box, last=True),
    ]


def test_between_the_marks_it_is_where_it_was_seen() -> None:
    rng = np.random.default_rng(0)
    things = [seen(k, float(40 * np.sin(k / 3) + 5 * k + rng.normal()), y=float(3 * k)) for k in range(60)]
    clock = Clock(rate=25, duration=60)
    found = marks(things, clock)
    assert len(found) < 40
    frames = [mark.frame for mark in found]
    assert frames == sorted(set(frames))
    for thing in things:
        for side in range(4):
            at = np.interp(clock.at(thing.time), frames, [mark.box[side] for mark in found])
            # A corner is off by as much at most; a side's length by that of both of its corners.
            assert at == pytest.approx(thing.box[side], abs=PRECISION if side < 2 else 2 * PRECISION)


def test_it_is_gone_while_it_is_silent() -> None:
    found = marks([seen(0), seen(3)], CLOCK)
    assert [(mark.frame, mark.last) for mark in found] == [(1, False), (25, True), (76, False), (100, True)]


def test_a_clip_of_one_frame() -> None:
    box: Box = (10, 20, 30, 40)
    assert marks([seen(0)], Clock(rate=25, duration=0.02)) == [Mark(frame=1, box=box, last=True)]
