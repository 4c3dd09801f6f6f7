"""Composed data sets, read back as AVSBench is read, and by the names that AVSBench gives its files."""

import csv
import wave
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from av2t_core.data.avsbench import (
    FRAMES,
    SIZE,
    SPLITS,
    DataError,
    missing_files,
    read_clips,
    read_frame,
    read_mask,
    read_sounds,
    read_table,
)
from av2t_core.data.composed_clip import draw_recipe, scene_of, soundtrack
from av2t_core.data.composed_set import SetLayout, SetRecipe, write_set
from av2t_core.data.cutouts import Cutouts
from av2t_core.errors import AV2TError
from av2t_core.media.sound import SILENCE
from tests.core.avsbench_sets import CUTOUTS, compose_set

CLIPS = 7


@pytest.fixture(scope="module")
def s4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_set(tmp_path_factory.mktemp("s4"), "s4", CLIPS)


@pytest.fixture(scope="module")
def ms3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_set(tmp_path_factory.mktemp("ms3"), "ms3", CLIPS)


def rows(table: Path) -> list[list[str]]:
    with table.open(newline="") as file:
        return list(csv.reader(file))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_files_of_s4(s4: Path) -> None:
    header, *clips = rows(s4 / "s4_meta_data.csv")
    expected = {"s4_meta_data.csv", "sounding.csv"}
    for video, _, category, split in clips:
        place = f"{split}/{category}"
        expected |= {f"visual_frames/{place}/{video}/{video}_{i}.png" for i in range(1, 6)}
        masks = 1 if split == "train" else 5
        expected |= {f"gt_masks/{place}/{video}/{video}_{i}.png" for i in range(1, masks + 1)}
        expected |= {f"all_objects/{video}/{i}.png" for i in range(1, masks + 1)}
        expected.add(f"audio_wav/{place}/{video}.wav")

    assert header == ["name", "start", "category", "split"]
    assert [video for video, *_ in clips] == [f"c{index:04}" for index in range(CLIPS)]
    assert {category for _, _, category, _ in clips} <= {"dog", "owl", "rooster"}
    assert set(files(s4)) == expected
    assert missing_files(read_table(s4, "s4")) == []


def test_the_files_of_ms3(ms3: Path) -> None:
    header, *clips = rows(ms3 / "ms3_meta_data.csv")
    expected = {"ms3_meta_data.csv", "sounding.csv"}
    for video, _, _, split in clips:
        expected |= {f"visual_frames/{video}/{video}.mp4_{i}.png" for i in range(1, 6)}
        expected |= {f"gt_masks/{split}/{video}/{video}_{i}.png" for i in range(1, 6)}
        expected |= {f"all_objects/{video}/{i}.png" for i in range(1, 6)}
        expected.add(f"audio_wav/{split}/{video}.wav")

    assert header == ["name", "start", "label", "split"]
    assert all(len(set(label.split("+"))) in (2, 3) for _, _, label, _ in clips)
    assert set(files(ms3)) == expected
    assert missing_files(read_table(ms3, "ms3")) == []


@pytest.mark.parametrize("layout", ["s4", "ms3"])
def test_pictures_and_sound_are_in_avsbenchs_formats(layout: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            mask = "gt_masks" in path.parts or "all_objects" in path.parts
            assert (image.format, image.mode, image.size) == ("PNG", "L" if mask else "RGB", (224, 224))
            assert not mask or set(np.unique(np.asarray(image))) <= {0, 255}
    for path in root.rglob("*.wav"):
        with wave.open(str(path)) as sound:
            assert sound.getparams()[:4] == (1, 2, 16_000, FRAMES * 16_000)


def test_in_s4_the_one_thing_sounds_in_every_second(s4: Path) -> None:
    clips = read_table(s4, "s4")
    for clip in clips:
        assert all(read_mask(path).any() for path in clip.masks if path)
        assert all(np.abs(sound.second).max() > 100 * SILENCE for sound in read_sounds(clip.sound, FRAMES))
    assert {clip.split for clip in clips} == set(SPLITS)


def test_in_ms3_the_masks_change_with_what_sounds(ms3: Path) -> None:
    clips = read_table(ms3, "ms3")
    changing = 0
    for clip in clips:
        masks = [mask for path in clip.masks if path and (mask := read_mask(path)).any()]
        changing += any((a & b).sum() < 0.2 * (a | b).sum() for a, b in pairwise(masks))
    assert changing > len(clips) / 2


def test_where_nothing_sounds_the_mask_is_empty_and_the_second_quiet(tmp_path: Path) -> None:
    compose_set(tmp_path, "ms3", 8, labels=("dog", "owl", "rooster", "kettle", "violin"))
    loud: list[float] = []
    quiet: list[float] = []
    off_screen: list[float] = []
    for clip in read_table(tmp_path, "ms3"):
        sounds = read_sounds(clip.sound, FRAMES)
        for second, (path, sound) in enumerate(zip(clip.masks, sounds, strict=True)):
            assert path is not None
            kind = loud if read_mask(path).any() else off_screen if second in clip.heard else quiet
            kind.append(float(np.square(sound.second).mean()))

    assert quiet
    assert off_screen
    assert min(np.median(loud), np.median(off_screen)) > 30 * np.median(quiet)


def test_all_objects_are_what_sounds_and_more(ms3: Path) -> None:
    more = 0
    for clip in read_table(ms3, "ms3"):
        for second, path in enumerate(clip.masks):
            assert path is not None
            everything = read_mask(ms3 / "all_objects" / clip.video / f"{second + 1}.png")
            assert not (read_mask(path) & ~everything).any()
            more += int((everything & ~read_mask(path)).any())
    assert more > FRAMES * CLIPS / 2


@pytest.mark.parametrize("text", ["video,second\nc0000,1\n", "video,second,sounding,in_view\nc0000,one,dog,owl\n"])
def test_a_list_of_sounds_that_is_none(text: str, tmp_path: Path) -> None:
    compose_set(tmp_path, "s4", 1)
    (tmp_path / "sounding.csv").write_text(text)
    with pytest.raises(DataError, match=r"sounding\.csv cannot be read as a table of video, second,"):
        read_table(tmp_path, "s4")


def test_several_processes_write_the_same(ms3: Path, tmp_path: Path) -> None:
    recipe = SetRecipe(layout="ms3", clips=CLIPS, labels=("dog", "owl", "rooster"))
    done: list[int] = []
    write_set(tmp_path, replace(Cutouts.load(CUTOUTS), backgrounds=()), recipe, lambda: done.append(1), jobs=2)
    assert files(tmp_path) == files(ms3)
    assert len(done) == CLIPS


def test_a_frame_is_the_scene_at_fifteen_sixteenths_of_its_second(s4: Path) -> None:
    rng = np.random.default_rng([0, 0])
    recipe = draw_recipe(rng, ("dog", "owl", "rooster"), seconds=FRAMES, most=1, width=SIZE, height=SIZE, fps=16)
    [clip, *_] = read_table(s4, "s4")
    cutouts = replace(Cutouts.load(CUTOUTS), backgrounds=()).part(clip.split)
    scene = scene_of(rng, cutouts, recipe)
    soundtrack(rng, cutouts, replace(recipe, sounding=(recipe.in_view,) * FRAMES))

    assert recipe.in_view == (clip.category,)
    for second, path in enumerate(clip.frames):
        assert (read_frame(path) == recipe.camera.shoot(rng, scene.draw(second + 15 / 16)[0])).all()


def test_the_splits_share_the_clips(tmp_path: Path) -> None:
    def counts(clips: int, *shares: int) -> list[int]:
        recipe = SetRecipe(layout="s4", clips=clips, labels=("dog",), shares=(shares[0], shares[1], shares[2]))
        found = Counter(recipe.splits)
        return [found[split] for split in SPLITS]

    assert counts(100, 70, 15, 15) == [70, 15, 15]
    assert counts(5, 70, 15, 15) == [3, 1, 1]
    assert counts(3, 34, 33, 33) == [1, 1, 1]
    assert counts(10, 0, 0, 100) == [0, 0, 10]


@pytest.mark.parametrize("layout", ["s4", "ms3"])
def test_more_clips_leave_the_earlier_ones_as_they_are(
    layout: SetLayout, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    many = files(request.getfixturevalue(layout))
    few = files(compose_set(tmp_path / "few", layout, 2))

    for table in (f"{layout}_meta_data.csv", "sounding.csv"):
        assert many.pop(table).startswith(few.pop(table))
    assert few.items() <= many.items()


def test_another_share_or_seed(s4: Path, tmp_path: Path) -> None:
    [same, *_] = read_clips(compose_set(tmp_path / "share", "s4", 2, shares=(100, 0, 0)), "s4", "train")
    [first, *_] = read_table(s4, "s4")
    assert [path.read_bytes() for path in same.frames] == [path.read_bytes() for path in first.frames]
    assert same.sound.read_bytes() == first.sound.read_bytes()

    [other, *_] = read_table(compose_set(tmp_path / "seed", "s4", 1, seed=1), "s4")
    assert other.frames[0].read_bytes() != first.frames[0].read_bytes()


def test_a_set_is_never_mixed_with_another(tmp_path: Path) -> None:
    compose_set(tmp_path, "s4", 1)
    layouts: tuple[SetLayout, ...] = ("s4", "ms3")
    for layout in layouts:
        with pytest.raises(AV2TError, match=r"holds a data set already \(s4_meta_data\.csv\): choose a new folder"):
            compose_set(tmp_path, layout, 1)


def test_what_was_interrupted_is_composed_anew(s4: Path, tmp_path: Path) -> None:
    recipe = SetRecipe(layout="s4", clips=3, labels=("dog", "owl", "rooster"))
    cutouts = replace(Cutouts.load(CUTOUTS), backgrounds=())

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, cutouts, recipe, stop)
    assert not list(tmp_path.glob("*.csv"))
    [half, *_] = (path for path in files(tmp_path) if path.endswith("_3.png"))
    (tmp_path / half).write_bytes(b"")
    write_set(tmp_path, cutouts, recipe)
    assert files(tmp_path).items() - files(s4).items() == {
        (name, (tmp_path / name).read_bytes()) for name in ("s4_meta_data.csv", "sounding.csv")
    }


def test_classes_that_are_too_few(tmp_path: Path) -> None:
    cutouts = Cutouts.load(CUTOUTS)
    with pytest.raises(AV2TError, match="ms3 needs two classes that sound by turns; there is only dog"):
        write_set(tmp_path, cutouts, SetRecipe(layout="ms3", clips=1, labels=("dog",)))
    held_out = SetRecipe(layout="s4", clips=1, labels=cutouts.labels, shares=(0, 0, 100), new=True)
    with pytest.raises(AV2TError, match="s4 needs a class with several photographs; there is none"):
        write_set(tmp_path, cutouts, held_out)
