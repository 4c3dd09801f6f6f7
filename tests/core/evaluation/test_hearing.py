"""What clips are heard with, on a small composed data set and on clips that are names only."""

from pathlib import Path

import numpy as np
import pytest

from av2t_core.data.avsbench import DataError, LabelledClip, read_clips, read_frame, shuffled
from av2t_core.evaluation.scores import windows
from tests.core.avsbench_sets import compose_set


def named(*categories: str) -> list[LabelledClip]:
    """A clip of each category; there are no files."""
    return [
        LabelledClip(
            video=f"v{index}", category=category, split="test", frames=(), masks=(), sound=Path(f"v{index}.wav")
        )
        for index, category in enumerate(categories)
    ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledClip]:
    root = compose_set(tmp_path_factory.mktemp("s4"), "s4", clips=3, shares=(0, 0, 100))
    return read_clips(root, "s4", "test")


@pytest.mark.parametrize(
    "categories",
    [
        ("dog", "owl"),
        ("dog",) * 3 + ("owl",) * 3,
        ("dog", "owl", "rooster", "dog", "owl", "lion", "dog"),
        ("dog",) * 4 + ("owl", "lion", "rooster", "kettle"),
    ],
)
def test_each_clip_hears_another_category_and_each_sound_is_heard_once(categories: tuple[str, ...]) -> None:
    for seed in range(20):
        clips = named(*categories)
        others = shuffled(clips, seed)
        assert sorted(clip.video for clip in others) == sorted(clip.video for clip in clips)
        assert all(clip.category != other.category for clip, other in zip(clips, others, strict=True))


def test_where_one_category_is_too_large_as_few_as_possible_stay_in_it() -> None:
    clips = named("dog", "dog", "dog", "dog", "dog", "owl", "lion")
    for seed in range(20):
        others = shuffled(clips, seed)
        assert sum(clip.category == other.category for clip, other in zip(clips, others, strict=True)) == 3
        assert all(clip.video != other.video for clip, other in zip(clips, others, strict=True))


@pytest.mark.parametrize("category", ["", "dog"])
def test_of_one_category_no_clip_hears_itself(category: str) -> None:
    for count in (2, 3, 10):
        clips = named(*[category] * count)
        assert all(clip.video != other.video for clip, other in zip(clips, shuffled(clips, 0), strict=True))


def test_the_seed_decides_who_hears_whom() -> None:
    clips = named(*"abcdefghij")
    drawn = [tuple(clip.video for clip in shuffled(clips, seed)) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4


def test_one_clip_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match="sounds can be shuffled among two clips or more, and v0 is the only one"):
        shuffled(named("dog"), 0)


def test_windows_are_the_frames_in_order_each_with_its_second(clips: list[LabelledClip]) -> None:
    found = list(windows(clips, "own", 0))
    assert [window.keyframe.index for window in found] == [0, 1, 2, 3, 4] * 3
    for window, path in zip(found, (path for clip in clips for path in clip.frames), strict=True):
        assert (window.image == read_frame(path)).all()
    seconds = [window.sound.second for window in found]
    assert {second.shape for second in seconds} == {(1, 16_000)}
    assert all(np.abs(second).max() > 0.01 for second in seconds)


def test_shuffled_windows_have_the_sound_of_another_clip_at_the_same_second(clips: list[LabelledClip]) -> None:
    own, wrong = list(windows(clips, "own", 0)), list(windows(clips, "shuffled", 0))
    others = [clips.index(other) for other in shuffled(clips, 0)]
    for index, window in enumerate(wrong):
        clip, second = divmod(index, 5)
        assert (window.image == own[index].image).all()
        assert (window.sound.samples == own[5 * others[clip] + second].sound.samples).all()


def test_muted_windows_are_silent_at_the_same_rate(clips: list[LabelledClip]) -> None:
    for own, muted in zip(windows(clips, "own", 0), windows(clips, "muted", 0), strict=True):
        assert (muted.sound.rate, muted.sound.samples.shape) == (own.sound.rate, own.sound.samples.shape)
        assert not muted.sound.samples.any()


def test_frames_without_a_mask_are_not_even_read(tmp_path: Path) -> None:
    clips = read_clips(compose_set(tmp_path, "s4", clips=2, shares=(100, 0, 0)), "s4", "train")
    for clip in clips:
        for frame in clip.frames[1:]:
            frame.write_text("no picture")
    assert [window.keyframe.index for window in windows(clips, "own", 0)] == [0, 0]
