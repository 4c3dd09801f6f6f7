"""AVSBench's layouts, written by hand as their docstring names them, and the ways in which masks are stored."""

import csv
import wave
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from av2t_core.data.avsbench import (
    FRAMES,
    SIZE,
    SPLITS,
    DataError,
    Layout,
    missing_files,
    read_clips,
    read_frame,
    read_mask,
    read_sounds,
    read_table,
    read_target,
)
from av2t_core.media.sound import MARGIN
from tests.core.avsbench_sets import compose_set

RATE = 16_000


def write_table(path: Path, *rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_wav(path: Path, seconds: float, channels: int = 1) -> Path:
    """A tone, the louder the higher the channel's number: channel c has the peak (c + 1) / 4."""
    tone = np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    samples = tone[:, None] * (np.arange(channels) + 1) / 4
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


# The layouts


def test_s4(tmp_path: Path) -> None:
    write_table(
        tmp_path / "s4_meta_data.csv",
        ("name", "start", "category", "split"),
        ("abc_1", 1, "dog", "train"),
        ("-xyz", 0, "playing violin", "test"),
    )
    touch(tmp_path, *(f"visual_frames/train/dog/abc_1/abc_1_{i}.png" for i in (1, 2, 3, 4, 5)))
    touch(tmp_path, "gt_masks/train/dog/abc_1/abc_1_1.png", "audio_wav/train/dog/abc_1.wav")
    touch(tmp_path, *(f"visual_frames/test/playing violin/-xyz/-xyz_{i}.png" for i in (1, 2, 3, 4, 5)))
    touch(tmp_path, *(f"gt_masks/test/playing violin/-xyz/-xyz_{i}.png" for i in (1, 2, 3, 4, 5)))
    touch(tmp_path, "audio_wav/test/playing violin/-xyz.wav")
    [train], [test] = read_clips(tmp_path, "s4", "train"), read_clips(tmp_path, "s4", "test")

    assert (train.video, train.category, train.split, train.labelled) == ("abc_1", "dog", "train", [0])
    assert (test.video, test.category, test.split, test.labelled) == ("-xyz", "playing violin", "test", [0, 1, 2, 3, 4])
    assert [path.name for path in test.frames] == [f"-xyz_{i}.png" for i in (1, 2, 3, 4, 5)]
    assert missing_files([train, test]) == []
    assert set(train.files + test.files) == {path for path in tmp_path.rglob("*.*") if path.suffix != ".csv"}


def test_ms3(tmp_path: Path) -> None:
    write_table(tmp_path / "ms3_meta_data.csv", ("name", "start", "label", "split"), ("abc", 1, "dog_man", "train"))
    touch(tmp_path, *(f"visual_frames/abc/abc.mp4_{i}.png" for i in (1, 2, 3, 4, 5)))
    touch(tmp_path, *(f"gt_masks/train/abc/abc_{i}.png" for i in (1, 2, 3, 4, 5)), "audio_wav/train/abc.wav")
    [clip] = read_clips(tmp_path, "ms3", "train")

    assert (clip.category, clip.labelled) == ("dog_man", [0, 1, 2, 3, 4])
    assert set(clip.files) == {path for path in tmp_path.rglob("*.*") if path.suffix != ".csv"}


@pytest.mark.parametrize(("layout", "labelled"), [("v1s", [0]), ("v1m", [0, 1, 2, 3, 4])])
def test_the_parts_of_the_later_release(tmp_path: Path, layout: Layout, labelled: list[int]) -> None:
    write_table(
        tmp_path / "metadata.csv",
        ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"),
        ("abc", "abc_0_5000", 0, 0, "dog", "train", layout),
        ("other", "other_0_10000", 0, 0, "dog", "train", "v2"),
    )
    own = f"{layout}/abc_0_5000"
    touch(tmp_path, *(f"{own}/frames/{i}.jpg" for i in range(5)), *(f"{own}/labels_rgb/{i}.png" for i in labelled))
    touch(tmp_path, f"{own}/audio.wav")
    [clip] = read_clips(tmp_path, layout, "train")

    assert (clip.video, clip.category, clip.labelled) == ("abc_0_5000", "dog", labelled)
    assert set(clip.files) == {path for path in tmp_path.rglob("*.*") if path.suffix != ".csv"}


@pytest.mark.parametrize("place", ["", "ms3_data", "Multi-sources", "Multi-sources/ms3_data"])
def test_the_folders_may_stand_deeper(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    composed = compose_set(tmp_path / "composed", "ms3", clips=1)
    for path in composed.iterdir():
        path.rename((folder.parent if place.endswith("_data") and path.suffix == ".csv" else folder) / path.name)

    assert missing_files(read_table(tmp_path, "ms3")) == []


def test_the_order_is_that_of_the_table_whatever_the_split(tmp_path: Path) -> None:
    rows = [(f"v{i}", 0, "x", SPLITS[i % 3]) for i in (4, 0, 2, 1, 3)]
    write_table(tmp_path / "ms3_meta_data.csv", ("name", "start", "label", "split"), *rows)

    assert [clip.video for clip in read_table(tmp_path, "ms3")] == ["v4", "v0", "v2", "v1", "v3"]
    assert [clip.video for clip in read_clips(tmp_path, "ms3", "val")] == ["v4", "v1"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    composed = compose_set(tmp_path, "ms3", clips=1)
    gone = [composed / "visual_frames/c0000/c0000.mp4_2.png", composed / "audio_wav/train/c0000.wav"]
    for path in gone:
        path.unlink()

    assert missing_files(read_table(composed, "ms3")) == gone


# The table


def refusal(root: Path, layout: Layout = "s4") -> str:
    with pytest.raises(DataError) as refused:
        read_table(root, layout)
    return str(refused.value)


def test_without_its_table_it_is_no_data_set(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} has no s4_meta_data.csv, so it is no data set of the layout s4"
    touch(tmp_path, "Multi-sources/ms3_meta_data.csv")
    assert refusal(tmp_path).endswith("of the layout s4; it looks like the layout ms3")
    assert refusal(tmp_path / "nowhere", "v1m").endswith("no metadata.csv, so it is no data set of the layout v1m")


def test_a_split_that_the_table_does_not_have(tmp_path: Path) -> None:
    table = write_table(tmp_path / "ms3_meta_data.csv", ("name", "start", "label", "split"), ("a", 0, "x", "train"))
    with pytest.raises(DataError, match="has no clip of the split val"):
        read_clips(tmp_path, "ms3", "val")
    write_table(table, ("name", "start", "label", "split"))
    assert refusal(tmp_path, "ms3") == f"{table} has no clip of the layout ms3"


@pytest.mark.parametrize("column", ["category", "split"])
def test_a_column_that_is_not_there(tmp_path: Path, column: str) -> None:
    columns = [name for name in ("name", "start", "category", "split") if name != column]
    table = write_table(tmp_path / "s4_meta_data.csv", columns)
    assert refusal(tmp_path) == f"{table} has no column {column!r}; it has {', '.join(columns)}"
    table.write_text("")
    assert refusal(tmp_path).endswith("; it has none")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc/passwd", "../../x", "x\x1b[2J", "x\ny", "x" * 241])
@pytest.mark.parametrize("column", ["video", "category"])
def test_names_that_lead_elsewhere_or_are_none(tmp_path: Path, name: str, column: str) -> None:
    good = ("abc", 0, "dog", "train")
    bad = (name, 0, "dog", "train") if column == "video" else ("abc", 0, name, "train")
    write_table(tmp_path / "s4_meta_data.csv", ("name", "start", "category", "split"), good, bad)
    message = refusal(tmp_path)
    assert f"{name!r} is no name of a folder" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("", 0, "dog", "train"),
            "line 2: video '', split 'train'; a row needs a video and a split of train, val, test",
        ),
        (("abc", 0, "dog", "Train"), "line 2: video 'abc', split 'Train'; a row needs a video and a split of"),
        (("abc", 0), "line 2: video 'abc', split None;"),
        (("abc", 0, " ", "train"), "line 2: 'abc' has no category, the folder it lies in"),
    ],
)
def test_rows_that_name_no_clip(tmp_path: Path, row: Sequence[object], message: str) -> None:
    write_table(tmp_path / "s4_meta_data.csv", ("name", "start", "category", "split"), row)
    assert message in refusal(tmp_path)


def test_what_is_no_table(tmp_path: Path) -> None:
    table = tmp_path / "s4_meta_data.csv"
    table.write_bytes(b"name,start,category,split\n\xff\xfe,0,dog,train\n")
    assert refusal(tmp_path).startswith(f"{table} cannot be read ('utf-8' codec can't decode byte 0xff")
    table.write_text('name,start,category,split\n"abc,0,dog,train\n')
    assert refusal(tmp_path) == f"{table} cannot be read (unexpected end of data)"


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    (tmp_path / "s4_meta_data.csv").write_bytes("\ufeffname,start,category,split\r\nabc,0,dog,train\r\n".encode())
    assert [clip.video for clip in read_table(tmp_path, "s4")] == ["abc"]


# Masks

CROSS = np.zeros((6, 8), np.bool_)
CROSS[2:4] = CROSS[:, 3:5] = True


def grey(background: int, inside: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(CROSS, inside, background).astype(dtype))


def colours(background: Sequence[int], inside: Sequence[int]) -> Image.Image:
    return Image.fromarray(np.where(CROSS[..., None], inside, background).astype(np.uint8))


def palette(*shades: int) -> Image.Image:
    """The colours 0 and 1 are the background and the inside."""
    image = Image.frombytes("P", CROSS.shape[::-1], CROSS.astype(np.uint8).tobytes())
    image.putpalette(shades)
    return image


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(grey(0, 255), id="grey"),
        pytest.param(grey(0, 1), id="grey of 0 and 1"),
        pytest.param(grey(127, 255), id="grey with half shades outside"),
        pytest.param(grey(0, 255).convert("1"), id="one bit"),
        pytest.param(grey(0, 255).convert("LA"), id="grey with alpha"),
        pytest.param(grey(0, 65535, np.uint16), id="16 bit"),
        pytest.param(grey(0, 255, np.uint16), id="16 bit of 0 and 255"),
        pytest.param(grey(32767, 65535, np.uint16), id="16 bit with half shades outside"),
        pytest.param(palette(0, 0, 0, 128, 0, 0), id="palette"),
        pytest.param(palette(0, 0, 0, 255, 255, 255), id="palette of black and white"),
        pytest.param(colours((0, 0, 0), (0, 0, 64)), id="a dark colour"),
        pytest.param(colours((0, 0, 0), (64, 64, 64)), id="the grey of a class"),
        pytest.param(colours((0, 0, 0), (255, 255, 255)), id="white"),
        pytest.param(colours((127, 127, 127), (255, 255, 255)), id="white with half shades outside"),
        pytest.param(colours((0, 0, 0, 255), (192, 128, 0, 255)), id="colour with alpha"),
        pytest.param(colours((0, 0, 0, 0), (255, 255, 255, 255)), id="white on nothing"),
    ],
)
def test_masks_are_read_as_what_they_show(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png") == CROSS).all()


def test_a_palette_with_transparent_colours(tmp_path: Path) -> None:
    palette(0, 0, 0, 200, 10, 10).save(tmp_path / "mask.png", transparency=bytes([0, 128]))
    assert (read_mask(tmp_path / "mask.png") == CROSS).all()


def test_soft_edges_are_cut_at_their_half(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    for mode in ("L", "RGB"):
        Image.fromarray(ramp).convert(mode).save(tmp_path / "mask.png")
        assert (read_mask(tmp_path / "mask.png") == (ramp > 127)).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16"])
def test_an_empty_mask_is_empty(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.shape == (6, 8)
    assert not mask.any()


def test_a_target_has_the_size_of_the_scores(tmp_path: Path) -> None:
    Image.new("L", (100, 50), 255).save(tmp_path / "all.png")
    half = np.zeros((448, 448), np.uint8)
    half[:, 224:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")

    assert read_target(tmp_path / "all.png").shape == (SIZE, SIZE)
    assert read_target(tmp_path / "all.png").all()
    assert (read_target(tmp_path / "half.png") == (np.arange(SIZE) >= SIZE // 2)).all()


# Frames


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_frame_is_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (8, 6), (204, 204, 204)).convert(mode).save(tmp_path / "frame.png")
    frame = read_frame(tmp_path / "frame.png")
    assert frame.shape == (6, 8, 3)
    assert frame.dtype == np.uint8
    assert (frame == 204).all()


def test_pictures_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"

    def told() -> str:
        with pytest.raises(DataError) as refused:
            read_frame(path)
        return str(refused.value)

    assert told() == f"{path} is missing"
    path.write_text("a letter")
    assert told() == f"{path} is no PNG or JPEG picture"
    Image.new("RGB", (8, 6)).save(path, "TIFF")
    assert told() == f"{path} is no PNG or JPEG picture"
    Image.effect_noise((64, 64), 50).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert told() == f"{path} is damaged (image file is truncated)"
    header = whole[12:16] + (100_000).to_bytes(4, "big") * 2 + whole[24:29]
    path.write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:])
    assert told().startswith(f"{path} is damaged (Image size (10000000000 pixels) exceeds limit")
    path.unlink()
    path.mkdir()
    assert told() == f"{path} cannot be read (Is a directory)"


# Sound


def test_sound_by_the_second(tmp_path: Path) -> None:
    sounds = read_sounds(write_wav(tmp_path / "mono.wav", FRAMES), FRAMES)

    assert [(sound.rate, sound.second.shape) for sound in sounds] == [(RATE, (1, RATE))] * FRAMES
    for sound in sounds:
        assert np.abs(sound.second).max() == pytest.approx(1 / 4, abs=1e-3)
    # Seconds join without a gap: the margin of one is the beginning of the next.
    assert (sounds[0].samples[:, -MARGIN:] == sounds[1].second[:, :MARGIN]).all()


def test_stereo_keeps_its_channels(tmp_path: Path) -> None:
    [first, *_] = read_sounds(write_wav(tmp_path / "stereo.wav", FRAMES, channels=2), FRAMES)

    assert first.second.shape == (2, RATE)
    assert np.abs(first.second).max(axis=1) == pytest.approx([1 / 4, 2 / 4], abs=1e-3)


def test_a_recording_that_is_too_short_goes_on_in_silence(tmp_path: Path) -> None:
    sounds = read_sounds(write_wav(tmp_path / "short.wav", 2.5), FRAMES)

    assert [bool(sound.second.any()) for sound in sounds] == [True, True, True, False, False]
    assert not sounds[2].second[:, RATE // 2 :].any()
    assert [sound.end for sound in sounds] == [None, None, MARGIN + RATE // 2, 0, 0]


def test_sound_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with pytest.raises(DataError, match=r"sound\.wav is missing"):
        read_sounds(path, FRAMES)
    path.write_text("a letter")
    with pytest.raises(DataError, match=r"sound\.wav cannot be read as sound"):
        read_sounds(path, FRAMES)
    write_wav(path, 0)
    with pytest.raises(DataError, match=r"sound\.wav holds no sound that can be decoded"):
        read_sounds(path, FRAMES)
