from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from av2t_core.prediction.drawing import write_overlay
from av2t_core.prediction.folder import KeyframeRecord, ObjectRecord
from tests.core.clips import SOUND_RATE, Sound, at_rate, tone, write_clip

LEFT_HALF = np.zeros((48, 64), np.bool_)
LEFT_HALF[:, :32] = True


def record(directory: Path, index: int, mask: NDArray[np.bool_], label: str | None = None) -> KeyframeRecord:
    """A keyframe of the window `index` whose mask lies in `directory`."""
    name = f"{index:03d}.png"
    Image.fromarray(mask.astype(np.uint8) * 255).save(directory / name)
    found = [ObjectRecord(number=1, label=label, score=0.5, box=[0, 0, 32, 48])] if mask.any() else []
    return KeyframeRecord(
        index=index,
        frame=0,
        time=0.0,
        level=-20.0,
        presence=None,
        sounding=bool(found),
        score=1.0,
        mask=name,
        objects=found,
    )


def overlay(clip: Path, *records: KeyframeRecord) -> Path:
    out = clip.parent / "overlay.mp4"
    seconds: list[None] = []
    write_overlay(clip, records, clip.parent, out, on_second=lambda: seconds.append(None))
    assert seconds
    return out


def frames(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    """(seconds, (H, W, 3)) of each frame."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24").astype(np.uint8)) for frame in container.decode(video=0)]


def is_tinted(image: NDArray[np.uint8]) -> bool:
    """Whether the left half is redder than the grey that it was, and the right half is not."""
    red, green = image[..., 0].astype(int), image[..., 1].astype(int)
    assert (red - green)[:, 40:].mean() == pytest.approx(0, abs=3)
    return bool((red - green)[:, :28].mean() > 30)


def test_each_window_shows_its_mask_during_its_second(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 3.2))
    silent = np.zeros_like(LEFT_HALF)
    out = overlay(clip, record(tmp_path, 0, LEFT_HALF), record(tmp_path, 1, silent), record(tmp_path, 2, LEFT_HALF))

    tinted = [is_tinted(image) for _, image in frames(out)]
    assert tinted == [True] * 10 + [False] * 10 + [True] * 10 + [False] * 2  # the last 0.2 s are no window


def test_it_plays_in_browsers(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(10, 1), sounds=[Sound(samples=tone(1, 8000), rate=8000)])
    out = overlay(clip, record(tmp_path, 0, LEFT_HALF))

    with av.open(str(out)) as container:
        [video], [audio] = container.streams.video, container.streams.audio
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert audio.codec_context.name.startswith("aac")
    content = out.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # it plays before it is loaded


@pytest.mark.parametrize(
    "times",
    [
        [0, 0.04, 0.5, 0.51, 0.9, 1.4],
        at_rate(30, 1.5, start=0.07),
    ],
)
def test_frames_keep_their_timestamps(tmp_path: Path, times: list[float]) -> None:
    clip = write_clip(tmp_path / "clip.mov", times, lasts=0.1, sounds=[Sound(samples=tone(1.5))])
    out = overlay(clip, record(tmp_path, 0, LEFT_HALF))

    assert [time for time, _ in frames(out)] == pytest.approx([time for time, _ in frames(clip)], abs=1e-4)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(times[-1] + 0.1 - times[0], abs=1e-3)


def test_a_picture_that_stands_still_changes_its_mask_with_the_second(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0.0], lasts=3, sounds=[Sound(samples=tone(3))], sound_codec="aac")
    silent = np.zeros_like(LEFT_HALF)
    out = overlay(clip, record(tmp_path, 0, silent), record(tmp_path, 1, LEFT_HALF), record(tmp_path, 2, silent))

    assert [(time, is_tinted(image)) for time, image in frames(out)] == [(0, False), (1, True), (2, False)]


def test_sound_stays_where_it_was(tmp_path: Path) -> None:
    click = np.zeros((2, 2 * SOUND_RATE), np.float32)
    click[:, round(0.75 * SOUND_RATE)] = 1
    clip = write_clip(tmp_path / "clip.mov", at_rate(10, 2.5), sounds=[Sound(samples=click, start=0.5)])
    out = overlay(clip, record(tmp_path, 0, LEFT_HALF))

    with av.open(str(out)) as container:
        pieces = [(frame.time, frame.to_ndarray()) for frame in container.decode(audio=0)]
    start = pieces[0][0]
    assert start is not None
    heard = np.concatenate([piece for _, piece in pieces], axis=1)
    assert start + np.abs(heard[0]).argmax() / SOUND_RATE == pytest.approx(1.25, abs=0.002)
    assert start + heard.shape[1] / SOUND_RATE == pytest.approx(2.5, abs=0.03)


def test_a_clip_without_sound(tmp_path: Path) -> None:
    out = overlay(write_clip(tmp_path / "clip.mp4", at_rate(10, 1)), record(tmp_path, 0, LEFT_HALF))

    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_it_begins_with_the_first_window(tmp_path: Path) -> None:
    clip = write_clip(
        tmp_path / "clip.mkv", at_rate(10, 2, start=7200.5), sounds=[Sound(samples=tone(2), start=7200.5)]
    )
    out = overlay(clip, record(tmp_path, 7201, LEFT_HALF), record(tmp_path, 7200, LEFT_HALF))

    assert frames(out)[0][0] < 1
    with av.open(str(out)) as container:
        assert container.duration is not None
        assert container.duration / av.time_base < 3


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (2, 5)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 1), size=size)
    out = overlay(clip, record(tmp_path, 0, np.ones(size[::-1], np.bool_)))

    time, image = frames(out)[0]
    assert time == 0
    assert image.shape[:2] == (size[1] + size[1] % 2, size[0] + size[0] % 2)


@pytest.mark.parametrize(("rotation", "expected"), [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
def test_the_shape_of_a_pixel_stays(tmp_path: Path, rotation: int, expected: Fraction) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 1), pixel_aspect=Fraction(4, 3), rotation=rotation)
    mask = np.ones((64, 48) if rotation else (48, 64), np.bool_)

    with av.open(str(overlay(clip, record(tmp_path, 0, mask)))) as container:
        assert container.streams.video[0].sample_aspect_ratio == expected


@pytest.mark.parametrize("label", ["dog", None, "a very long name that is wider than the whole of the picture is"])
def test_names_are_written_where_there_is_room(tmp_path: Path, label: str | None) -> None:
    mask = np.zeros((120, 160), np.bool_)
    mask[60:110, 100:150] = True
    found = record(tmp_path, 0, mask, label)
    found["objects"][0]["box"] = [100, 60, 50, 50]
    clip = write_clip(tmp_path / "clip.mp4", [0], size=(160, 120))
    [(_, image)] = frames(overlay(clip, found))

    def redness(rows: slice, columns: slice) -> float:
        return float((image[rows, columns, 0].astype(int) - image[rows, columns, 1]).mean())

    assert redness(slice(45, 55), slice(100, 104)) > 60  # the plate above the box
    assert redness(slice(0, 30), slice(0, 160)) == pytest.approx(0, abs=3)


def test_real_clips(shared: Path, tmp_path: Path) -> None:
    for name in ("phone_vfr_rotated180.mp4", "rotated90_no_audio.mov", "corrupted.mp4", "one_pixel.mp4"):
        clip = shared / "media" / name
        expected = _times(clip)
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            size = (stream.width, stream.height) if "rotated90" in name else (stream.height, stream.width)
        out = tmp_path / "overlay.mp4"
        write_overlay(clip, [record(tmp_path, 0, np.ones(size, np.bool_))], tmp_path, out, lambda: None)

        assert _times(out) == pytest.approx(expected, abs=1e-4)


def _times(path: Path) -> list[float]:
    times = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                times += [frame.time for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
            except av.FFmpegError:
                continue
    return times
