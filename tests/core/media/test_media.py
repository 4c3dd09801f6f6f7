"""Clips are written by the tests, so that every frame's number and every sample is known; or are real ones."""

import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread

import av
import numpy as np
import pytest
from av.stream import Disposition

from av2t_core.errors import MediaError
from av2t_core.media.clip import Clip, ClipInfo, Window
from av2t_core.media.frames import Frames
from av2t_core.media.picture import Display
from av2t_core.media.sound import MARGIN
from av2t_core.memory import resident_peak
from tests.core.clips import SOUND_RATE, Sound, at_rate, flat, grey, tone, write_clip


def read(path: Path) -> tuple[list[Window], ClipInfo]:
    with Clip(path) as clip:
        windows = list(clip.windows())
        return windows, clip.info


def keyframes(path: Path) -> list[tuple[int, int]]:
    """(index, frame) of each keyframe."""
    return [(keyframe.index, keyframe.frame) for keyframe in read(path)[1].keyframes]


def remarks(path: Path) -> str:
    return " ".join(read(path)[1].remarks)


def shows(window: Window, number: int) -> bool:
    return bool(abs(float(window.image.mean()) - grey(number)) < 2)


# Frames and windows


def test_the_keyframe_is_the_frame_nearest_to_fifteen_sixteenths(tmp_path: Path) -> None:
    windows, info = read(write_clip(tmp_path / "clip.mp4", at_rate(10, 3)))

    assert [(k.index, k.frame) for k in info.keyframes] == [(0, 9), (1, 19), (2, 29)]
    assert [k.time for k in info.keyframes] == pytest.approx([0.9, 1.9, 2.9])
    assert all(shows(window, window.keyframe.frame) for window in windows)
    assert info.duration == pytest.approx(3)
    assert (info.width, info.height, info.fps, info.frame_count) == (64, 48, 10, 30)


def test_a_frame_exactly_there_is_chosen(tmp_path: Path) -> None:
    assert keyframes(write_clip(tmp_path / "clip.mp4", at_rate(16, 2))) == [(0, 15), (1, 31)]


def test_of_two_frames_equally_near_the_earlier_one_is_chosen(tmp_path: Path) -> None:
    assert keyframes(write_clip(tmp_path / "clip.mp4", [0, 0.875, 1.0])) == [(0, 1)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, [(0, 1)]),  # the only window, however short
        (1.4, [(0, 9)]),
        (1.5, [(0, 9), (1, 14)]),
        (1.8, [(0, 9), (1, 17)]),  # 15/16 lies past the end: the last frame
    ],
)
def test_a_last_window_of_less_than_half_a_second_is_none(
    tmp_path: Path, seconds: float, expected: list[tuple[int, int]]
) -> None:
    assert keyframes(write_clip(tmp_path / "clip.mp4", at_rate(10, seconds))) == expected


def test_variable_frame_rate_goes_by_timestamps(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 0.1, 0.5, 0.91, 1.0, 1.2, 2.9, 3.0])

    assert keyframes(clip) == [(0, 3), (1, 5), (2, 6)]
    assert "The frame rate varies" in remarks(clip)


def test_a_picture_that_stands_still_is_the_keyframe_of_all_its_windows(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0], lasts=3, sounds=[Sound(samples=tone(3))], sound_codec="aac")
    windows, info = read(clip)

    assert [(k.index, k.frame) for k in info.keyframes] == [(0, 0), (1, 0), (2, 0)]
    assert all(np.abs(window.sound.second).max() > 0.3 for window in windows)


def test_seconds_before_the_first_frame_are_no_windows(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mov", at_rate(10, 2, start=2.3), sounds=[Sound(samples=tone(5))])

    assert keyframes(clip) == [(2, 6), (3, 16)]


def test_the_clock_may_jump(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(10, 1) + at_rate(10, 1, start=90_000))

    assert keyframes(clip) == [(0, 9), (90_000, 19)]
    assert "jump from 1.0 s to 90000.0 s" in remarks(clip)


def test_a_clock_that_runs_backwards_is_told(tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.ts", at_rate(10, 2)).read_bytes()
    clip = tmp_path / "clip.ts"
    clip.write_bytes(part + part)

    assert [index for index, _ in keyframes(clip)] == [0, 1]
    assert "before the frame that they follow: 1" in remarks(clip)


def test_what_the_container_declares_is_not_believed_against_the_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(10, 2), declared_rate=25)

    assert read(clip)[1].fps == pytest.approx(10)
    assert keyframes(clip) == [(0, 9), (1, 19)]


def test_a_stream_without_timestamps_runs_at_its_rate(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.h264", at_rate(25, 2))
    with Clip(path) as clip:
        assert clip.expected_windows is None
        frames = [window.keyframe.frame for window in clip.windows()]
    assert frames == [23, 48]
    assert clip.info.duration == pytest.approx(2)


def test_a_container_without_duration(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", at_rate(10, 2.6), options={"live": "1"})
    with Clip(path) as clip:
        assert clip.expected_windows is None
        assert len(list(clip.windows())) == 3
    assert clip.info.duration == pytest.approx(2.6, abs=0.01)


@pytest.mark.parametrize("name", ["clip.avi", "clip.asf"])
@pytest.mark.parametrize(
    ("codec", "b_frames"), [("libx264", 1), ("libx264", 2), ("libx264", 7), ("mpeg4", 2), ("mpeg2video", 2)]
)
def test_frames_come_in_order_where_a_container_has_timestamps_of_decoding_alone(
    tmp_path: Path, name: str, codec: str, b_frames: int
) -> None:
    clip = write_clip(
        tmp_path / name, at_rate(25, 3), codec=codec, pix_fmt="yuv420p", b_frames=b_frames, clock=Fraction(1, 25)
    )
    _, info = read(clip)

    assert [k.time for k in info.keyframes] == pytest.approx([0.92, 1.92, 2.92])
    assert [b.frame - a.frame for a, b in pairwise(info.keyframes)] == [25, 25]
    assert info.fps == pytest.approx(25)
    assert info.remarks == ("The sound is missing: nothing is heard in this clip.",)


def test_a_video_with_b_frames_in_avi(shared: Path) -> None:
    _, info = read(shared / "cases" / "avi_bframes" / "b.avi")

    assert [k.time for k in info.keyframes] == pytest.approx([k + 0.92 for k in range(6)])
    assert info.fps == pytest.approx(25)
    assert not info.remarks


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_frames_at_uneven_times_keep_them_whatever_the_order_of_decoding(tmp_path: Path, name: str) -> None:
    times = [0, 0.1, 0.15, 0.4, 0.5, 0.93, 1.0, 1.3, 1.35, 1.4, 1.9, 2.0]
    with Frames(write_clip(tmp_path / name, times, b_frames=3)) as frames:
        found = [frame.time for frame in frames]
    assert np.diff(found) == pytest.approx(np.diff(times), abs=0.002)


@pytest.mark.parametrize("seconds", [0.3, 1.4, 1.6, 3])
def test_expected_windows(tmp_path: Path, seconds: float) -> None:
    with Clip(write_clip(tmp_path / "clip.mp4", at_rate(10, seconds))) as clip:
        assert clip.expected_windows == len(list(clip.windows()))


def test_info_is_known_at_the_end_only(tmp_path: Path) -> None:
    with Clip(write_clip(tmp_path / "clip.mp4", at_rate(10, 1))) as clip, pytest.raises(RuntimeError, match="exhaust"):
        _ = clip.info


# Keyframes that are closer together or further apart


def ramp(seconds: int) -> np.ndarray:
    """Sound that says by its level what time it is: 0 to 1 from the start to the end."""
    return np.linspace(0, 1, seconds * SOUND_RATE, endpoint=False, dtype=np.float32)[None]


def heard_from(window: Window, seconds: int) -> float:
    """The time at which its sound begins, by the ramp."""
    return float(window.sound.second[0, 0]) * seconds


def test_several_keyframes_a_second_hear_the_second_around_each(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", at_rate(20, 3), sounds=[Sound(samples=ramp(3))])
    with Clip(path, per_second=4) as clip:
        assert clip.expected_windows == 12
        windows = list(clip.windows())
    assert [window.keyframe.index for window in windows] == list(range(12))
    assert [window.keyframe.time for window in windows] == pytest.approx([0.1 + 0.25 * k for k in range(12)], abs=0.051)
    starts = [max(0.0, 0.125 + 0.25 * k - 0.5) for k in range(12)]
    assert [heard_from(window, 3) for window in windows] == pytest.approx(starts, abs=0.002)
    assert all(window.sound.second.shape == (1, SOUND_RATE) for window in windows)
    assert clip.info.step == 0.25


def test_there_are_no_more_keyframes_than_frames(tmp_path: Path) -> None:
    with Clip(write_clip(tmp_path / "clip.mp4", at_rate(5, 2)), per_second=25) as clip:
        assert [window.keyframe.frame for window in clip.windows()] == list(range(10))


@pytest.mark.parametrize("declared", [1, 2, 10, 1000])
@pytest.mark.parametrize(("rate", "count"), [(2, 8), (20, 16)])
def test_the_frames_that_are_there_say_how_close_keyframes_can_be(
    tmp_path: Path, declared: int, rate: int, count: int
) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(rate, 4), declared_rate=declared)
    with Clip(clip, per_second=4) as opened:
        frames = [window.keyframe.frame for window in opened.windows()]
    assert len(set(frames)) == len(frames) == count


@pytest.mark.parametrize("options", [{}, {"live": "1"}])
def test_the_keyframes_of_a_long_clip_are_spread(tmp_path: Path, options: dict[str, str]) -> None:
    """Also where its container does not say how long it is."""
    path = write_clip(tmp_path / "clip.mkv", at_rate(10, 20), sounds=[Sound(samples=ramp(20))], options=options)
    with Clip(path, most=4) as clip:
        windows = list(clip.windows())
    assert [window.keyframe.time for window in windows] == pytest.approx([2.5, 7.5, 12.5, 17.5], abs=0.051)
    assert [heard_from(window, 20) for window in windows] == pytest.approx([2, 7, 12, 17], abs=0.01)
    assert "one keyframe every 5.0 s, 4 in all" in " ".join(clip.info.remarks)


def test_a_clip_of_just_the_most_keyframes_is_as_it_would_be(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", at_rate(10, 4))
    with Clip(path, most=4) as clip:
        assert [window.keyframe.frame for window in clip.windows()] == [9, 19, 29, 39]
    assert "keyframe every" not in " ".join(clip.info.remarks)


PROMISES = [  # the case, the most, how many keyframes are right, and whether they are spread
    ("off3600.webm", 100, 6, False),  # its clock begins at an hour, and its header counts from there
    ("off3600.webm", 4, 4, True),
    ("zero.mp4", 100, 30, False),  # all durations in its headers are 0
    ("zero.mp4", 20, 20, True),
]


@pytest.mark.parametrize(("name", "most", "count", "spread"), PROMISES)
def test_keyframes_are_counted_by_what_is_there(shared: Path, name: str, most: int, count: int, spread: bool) -> None:
    with Clip(shared / "cases" / "promise" / name, most=most) as clip:
        assert clip.expected_windows == count
        windows = list(clip.windows())
    assert len(windows) == count
    said = " ".join(clip.info.remarks)
    assert ("keyframe every" in said) is spread
    assert not any(word in said for word in ("silence", "incomplete", "left out"))
    assert all(np.abs(window.sound.second).max() > 0.01 for window in windows)


def promising(path: Path, seconds: float) -> Path:
    """A Matroska clip whose header says that it lasts so long."""
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3
    path.write_bytes(content[:at] + struct.pack(">d", 1000 * seconds) + content[at + 8 :])
    return path


@pytest.mark.parametrize("seconds", [0.001, 25, 40, 10**6])
@pytest.mark.parametrize("start", [0, 1.4, 100_000])
@pytest.mark.parametrize("most", [1, 7])
def test_the_most_is_never_exceeded_whatever_is_promised(
    tmp_path: Path, seconds: float, start: float, most: int
) -> None:
    path = promising(write_clip(tmp_path / "clip.mkv", at_rate(5, 40, start=start)), seconds)
    with Clip(path, most=most) as clip:
        windows = list(clip.windows())
    assert most - 1 <= len(windows) <= most
    gaps = [later.keyframe.time - earlier.keyframe.time for earlier, later in pairwise(windows)]
    assert all(gap == pytest.approx(40 / most, rel=0.25) for gap in gaps)
    assert clip.info.frame_count == 200


@pytest.mark.parametrize(("start", "rate"), [(0, 2), (0.3, 2), (1.4, 3)])
def test_the_most_is_not_exceeded_where_the_start_lies_off_the_grid(tmp_path: Path, start: float, rate: int) -> None:
    with Clip(write_clip(tmp_path / "clip.ts", at_rate(rate, 300, start=start)), most=100) as clip:
        assert clip.expected_windows == len(list(clip.windows())) in (99, 100)
    assert "left out" not in " ".join(clip.info.remarks)


@pytest.mark.parametrize("name", ["clip.ts", "clip.mp4", "clip.avi", "clip.h264"])
@pytest.mark.parametrize("most", [4, 9])
def test_the_most_is_never_exceeded_in_any_container(tmp_path: Path, name: str, most: int) -> None:
    with Clip(write_clip(tmp_path / name, at_rate(10, 20)), most=most) as clip:
        assert most - 1 <= len(list(clip.windows())) <= most


def test_packets_that_lie_do_not_circumvent_the_most(tmp_path: Path) -> None:
    """By their own timestamps frames come minutes after what their packets say."""
    clip = Clip(write_clip(tmp_path / "clip.mkv", at_rate(10, 20)), most=5)
    clip._step = 1.0  # as if its packets had promised five seconds
    with clip:
        assert len(list(clip.windows())) == 5
    assert "What comes after 5.9 s is left out: it has 5 keyframes by then." in clip.info.remarks
    assert clip.info.duration == pytest.approx(20, abs=0.1)


def test_a_clock_that_jumps_at_every_frame_says_so_in_a_few_sentences(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", [4000.0 * number for number in range(50)], lasts=0.1)
    with Clip(path, most=10) as clip:
        assert len(list(clip.windows())) <= 10
    assert len([remark for remark in clip.info.remarks if "jump" in remark]) == 4
    assert "The timestamps jump 46 times more." in clip.info.remarks


# The picture as a person sees it


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_and_mirroring(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32] = 200  # one bright corner: upper left
    clip = write_clip(tmp_path / "clip.mp4", [0], images=[stored], rotation=rotation, mirrored=mirrored)
    [window], info = read(clip)

    # The matrix that is written turns counter-clockwise first and mirrors then.
    turned = np.rot90(stored, rotation // 90)
    expected = turned[:, ::-1] if mirrored else turned
    assert window.image.shape == expected.shape == (info.height, info.width, 3)
    assert np.abs(window.image.astype(int) - expected).mean() < 8


def with_exif(path: Path, orientation: int) -> Path:
    """Ten JPEG frames, bright in their upper left corner, that carry EXIF data as a camera writes them."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32] = 200
    tag = struct.pack("<HHHII", 1, 0x112, 3, 1, orientation) + bytes(4)
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + tag
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, width=64, height=48, pix_fmt="yuvj420p")
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in stream.encode(frame):
                plain = bytes(packet)
                marked = av.Packet(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
                marked.pts, marked.dts, marked.time_base = packet.pts, packet.dts, packet.time_base
                marked.stream = stream
                container.mux(marked)
    return path


@pytest.mark.parametrize(
    ("orientation", "bright"),
    [
        (1, np.s_[:24, :32]),
        (2, np.s_[:24, 32:]),
        (3, np.s_[24:, 32:]),
        (4, np.s_[24:, :32]),
        (5, np.s_[:32, :24]),
        (6, np.s_[:32, 24:]),
        (7, np.s_[32:, 24:]),
        (8, np.s_[32:, :24]),
    ],
)
def test_side_data_without_a_name_is_no_obstacle_to_the_orientation(
    tmp_path: Path, orientation: int, bright: tuple[slice, slice]
) -> None:
    [window], _ = read(with_exif(tmp_path / "clip.mov", orientation))
    expected = np.zeros(window.image.shape)
    expected[bright] = 200
    assert window.image.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    assert np.abs(window.image - expected).mean() < 8


def test_frames_as_cameras_write_them(shared: Path) -> None:
    _, info = read(shared / "cases" / "sidedata" / "mjpeg_exif.mov")

    assert (info.width, info.height) == (160, 120)
    assert [keyframe.time for keyframe in info.keyframes] == pytest.approx([0.9, 1.9])


@pytest.mark.parametrize("matrix", [8, 10, 14, 15])
def test_colours_coded_in_an_unknown_way_are_a_guess_and_told(tmp_path: Path, matrix: int) -> None:
    """YCgCo, BT.2020 with constant luminance, ICtCp and IPT; their greys are those of all the others."""
    clip = write_clip(tmp_path / "plain.mp4", at_rate(10, 1))
    tagged = tmp_path / "tagged.mp4"
    with av.open(str(clip)) as source, av.open(str(tagged), "w") as to:
        stream = source.streams.video[0]
        copy = to.add_stream_from_template(stream)
        tag = av.BitStreamFilterContext(f"h264_metadata=matrix_coefficients={matrix}", stream, copy)
        for packet in source.demux(stream):
            for filtered in tag.filter(packet if packet.size else None):
                filtered.stream = copy
                to.mux(filtered)
    [window], _ = read(tagged)

    assert shows(window, 9)
    assert f"coded in a way (matrix {matrix}) that is not known" in remarks(tagged)
    assert "coded in a way" not in remarks(clip)


def test_pixels_that_cannot_be_shown_are_told() -> None:
    with pytest.raises(MediaError, match=r"clip\.mkv: its pixels have a format, x2rgb10be, that cannot be shown"):
        Display("clip.mkv").rgb(av.VideoFrame(64, 48, "x2rgb10be"), (64, 48))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (33, 17)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    [window], info = read(write_clip(tmp_path / "clip.mp4", at_rate(10, 1), size=size))

    assert (info.width, info.height) == size
    assert shows(window, 9)


def test_pixels_that_are_not_square_stay_and_are_told(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 1), pixel_aspect=Fraction(4, 3))

    assert read(clip)[1].width == 64
    assert "not square, 1.333 to 1" in remarks(clip)


def test_the_aspect_of_a_pixel_turns_with_the_picture(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 1), pixel_aspect=Fraction(4, 3), rotation=90)

    assert "not square, 0.750 to 1" in remarks(clip)


def test_a_picture_that_changes_its_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.h264", at_rate(25, 1))
    second = write_clip(tmp_path / "second.h264", at_rate(25, 1), size=(128, 96))
    both = tmp_path / "both.h264"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    windows, info = read(both)

    assert {window.image.shape for window in windows} == {(48, 64, 3)}
    assert info.frame_count == 50
    assert "scaled to its size: 25" in remarks(both)


# Sound


def test_every_sample_is_in_its_place(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, (2, 5 * SOUND_RATE // 2)).astype(np.float32)
    windows, info = read(write_clip(tmp_path / "clip.mkv", at_rate(10, 2.5), sounds=[Sound(samples=noise)]))

    assert info.audible
    assert [window.sound.second.shape for window in windows] == [(2, SOUND_RATE)] * 3
    heard = np.concatenate([window.sound.second for window in windows], axis=1)
    np.testing.assert_allclose(heard[:, : noise.shape[1]], noise, atol=1e-4)  # 16 bits
    assert not heard[:, noise.shape[1] :].any()  # zeros at the tail


def test_a_second_carries_the_edges_of_its_neighbours(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, (2, 5 * SOUND_RATE // 2)).astype(np.float32)
    windows, _ = read(write_clip(tmp_path / "clip.mkv", at_rate(10, 2.5), sounds=[Sound(samples=noise)]))

    heard = [window.sound.samples for window in windows]
    assert [samples.shape for samples in heard] == [(2, MARGIN + SOUND_RATE + MARGIN)] * 3
    for earlier, later in pairwise(heard):
        np.testing.assert_array_equal(earlier[:, -2 * MARGIN :], later[:, : 2 * MARGIN])
        assert earlier[:, -2 * MARGIN :].all(axis=1).any()
    assert not heard[0][:, :MARGIN].any()
    assert not heard[2][:, -MARGIN:].any()
    assert [window.sound.end for window in windows] == [None, None, MARGIN + SOUND_RATE // 2]


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "aac"), ("clip.webm", "libopus"), ("clip.ts", "aac")])
def test_a_click_is_heard_when_it_was_made(tmp_path: Path, name: str, codec: str) -> None:
    click = np.zeros((1, 3 * SOUND_RATE), np.float32)
    click[0, round(1.25 * SOUND_RATE)] = 1
    # A white frame is shown when the click is made: both are late by the same, whatever clock the container sets.
    images = [np.full((48, 64, 3), 255 if number == 25 else 0, np.uint8) for number in range(60)]
    clip = write_clip(
        tmp_path / name,
        at_rate(20, 3),
        images=images,
        codec="libvpx-vp9" if name.endswith("webm") else "libx264",
        pix_fmt="yuv420p",
        sounds=[Sound(samples=click)],
        sound_codec=codec,
    )
    windows, _ = read(clip)
    with av.open(str(clip)) as container:
        flash = max(container.decode(video=0), key=lambda frame: frame.to_ndarray(format="gray").mean()).time

    heard = np.concatenate([window.sound.second[0] for window in windows])
    assert np.abs(heard).argmax() / SOUND_RATE == pytest.approx(flash, abs=0.002)


@pytest.mark.parametrize("layout", ["3 channels", "ambisonic 2", "hexadecagonal", "22.2"])
def test_sound_of_any_number_of_channels_is_heard(tmp_path: Path, layout: str) -> None:
    path = write_clip(tmp_path / "picture.mkv", at_rate(10, 1))
    clip = tmp_path / "clip.mkv"
    with av.open(str(path)) as source, av.open(str(clip), "w") as to:
        video = to.add_stream_from_template(source.streams.video[0])
        sound = to.add_stream("pcm_s16le", rate=SOUND_RATE, layout=layout)
        channels = sound.layout.nb_channels
        samples = np.arange(SOUND_RATE * channels, dtype=np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts = SOUND_RATE, 0
        for packet in source.demux(0):
            if packet.size:
                packet.stream = video
                to.mux(packet)
        to.mux(sound.encode(frame))
    [window], _ = read(clip)
    expected = samples.reshape(SOUND_RATE, channels).T / np.float32(2**15)
    np.testing.assert_array_equal(window.sound.second, expected)


def test_sound_that_begins_late_leaves_silence_before_it(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mov", at_rate(10, 3), sounds=[Sound(samples=tone(1.5), start=1.5)])
    windows, _ = read(clip)

    assert not windows[0].sound.second.any()
    assert not windows[1].sound.second[:, : SOUND_RATE // 2].any()
    np.testing.assert_allclose(windows[1].sound.second[:, SOUND_RATE // 2 :], tone(0.5), atol=1e-4)
    assert "The sound begins 1.5 s after the picture" in remarks(clip)


def test_sound_that_ends_early_leaves_silence_after_it(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mov", at_rate(10, 3), sounds=[Sound(samples=tone(1))])
    windows, _ = read(clip)

    assert [bool(window.sound.second.any()) for window in windows] == [True, False, False]
    assert [window.sound.end for window in windows] == [MARGIN + SOUND_RATE, MARGIN, 0]
    assert "The sound ends 2.0 s before the picture" in remarks(clip)


def test_sound_that_goes_on_is_left_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mov", at_rate(10, 1), sounds=[Sound(samples=tone(4))])

    assert keyframes(clip) == [(0, 9)]
    assert "The sound goes on after the picture has ended" in remarks(clip)


def test_no_sound(tmp_path: Path) -> None:
    windows, info = read(write_clip(tmp_path / "clip.mp4", at_rate(10, 2)))

    assert [window.sound.second.shape for window in windows] == [(1, 0)] * 2
    assert not info.audible
    assert "The sound is missing: nothing is heard in this clip." in info.remarks


def test_digital_silence_is_told(tmp_path: Path) -> None:
    silence = Sound(samples=np.zeros((2, 2 * SOUND_RATE), np.float32))
    windows, info = read(write_clip(tmp_path / "clip.mov", at_rate(10, 2), sounds=[silence]))

    assert not info.audible
    assert not any(window.sound.second.any() for window in windows)
    assert "digital silence" in info.remarks[0]


def test_of_several_streams_the_first_is_used(tmp_path: Path) -> None:
    sounds = [Sound(samples=tone(1)), Sound(samples=np.zeros((1, SOUND_RATE), np.float32))]
    clip = write_clip(tmp_path / "clip.mkv", at_rate(10, 1), sounds=sounds, videos=2)
    [window], info = read(clip)

    assert np.abs(window.sound.second).max() > 0.4
    assert info.remarks == (
        "It has 2 video streams: the first, 64x48, is used.",
        "It has 2 audio streams: the first, 48000 Hz, is used.",
    )


# Damage and what is no clip


def test_a_file_that_is_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(10, 8), sounds=[Sound(samples=tone(8))])
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])

    assert 3 <= len(keyframes(clip)) <= 5
    assert "before the length that it promises: it is incomplete" in remarks(clip)


@pytest.mark.parametrize("name", ["clip.webm", "clip.mkv", "clip.mov"])
@pytest.mark.parametrize("lengths", [[6.0], [3.0, 6.0]])
def test_a_whole_file_is_not_called_incomplete_for_what_goes_on_after_the_picture(
    tmp_path: Path, name: str, lengths: list[float]
) -> None:
    webm = name.endswith("webm")
    clip = write_clip(
        tmp_path / name,
        at_rate(10, 3),
        codec="libvpx-vp9" if webm else "libx264",
        pix_fmt="yuv420p",
        sounds=[Sound(samples=tone(seconds)) for seconds in lengths],
        sound_codec="libopus" if webm else "pcm_s16le",
    )
    assert "incomplete" not in remarks(clip)
    assert ("The sound goes on after the picture has ended" in remarks(clip)) is (lengths == [6.0])


def test_a_file_without_fault_gets_one_remark(shared: Path) -> None:
    _, info = read(shared / "cases" / "incomplete" / "whole.webm")

    assert info.remarks == ("The sound goes on after the picture has ended; that part is left out.",)


@pytest.mark.parametrize("rate", [24, 30, 60, 120, 240])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4", "clip.flv"])
def test_timestamps_that_a_container_rounds_are_no_varying_frame_rate(tmp_path: Path, name: str, rate: int) -> None:
    assert "varies" not in remarks(write_clip(tmp_path / name, at_rate(rate, 2), pix_fmt="yuv420p"))


def test_damaged_frames_are_counted_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (30, 48, 64, 3), np.uint8)
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 3), images=list(noise))
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = bytes(30_000)
    clip.write_bytes(content)
    windows, info = read(clip)

    assert len(windows) == 3
    assert "damaged" in " ".join(info.remarks) or "cannot be decoded" in " ".join(info.remarks)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("b_frames", [0, 2])
def test_all_frames_but_the_damaged_one_are_there_however_many_cores(tmp_path: Path, b_frames: int) -> None:
    """The last packet, or the one before, says that it is longer than it is."""
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 2), b_frames=b_frames)
    with av.open(str(clip)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = clip.read_bytes()
    for place in places[-2:]:
        assert place is not None
        clip.write_bytes(content[:place] + b"\x7f\xff\xff\xff" + content[place + 4 :])
        _, info = read(clip)
        assert info.frame_count == 19
        assert "Frames left out because they cannot be decoded: 1." in info.remarks


def test_a_damaged_last_packet_costs_one_frame(shared: Path) -> None:
    _, info = read(shared / "cases" / "flush" / "last_bad.mp4")

    assert (info.frame_count, len(info.keyframes)) == (19, 10)
    assert "Frames left out because they cannot be decoded: 1." in info.remarks


def test_frames_that_are_waiting_when_reading_ends_in_an_error_keep_their_times(tmp_path: Path) -> None:
    content = write_clip(tmp_path / "whole.nut", at_rate(10, 4), b_frames=2).read_bytes()
    clip = tmp_path / "clip.nut"
    cut = 0
    for length in range(len(content) // 2, len(content), 53):
        clip.write_bytes(content[:length])
        with Frames(clip) as frames:
            times = [frame.time for frame in frames]
            cut += frames.cut
        assert all(0 < later - earlier < 1 for earlier, later in pairwise(times))
    assert cut


# What would take more memory than there is


@pytest.mark.parametrize(
    ("name", "size", "codec", "pix_fmt", "words"),
    [
        ("clip.mov", (16386, 16), "png", "rgb24", "its frames have 16386 x 16 pixels, and at most 16384 a side"),
        ("clip.mov", (6144, 6144), "png", "rgb24", "none .* or they have more than 35,651,584 pixels"),
        ("clip.mp4", (8192, 4400), "libx264", "yuv420p", "its frames have 8192 x 4400 pixels.*scale it down to 8K"),
    ],
)
def test_a_picture_that_is_too_large_is_not_decoded(
    tmp_path: Path, name: str, size: tuple[int, int], codec: str, pix_fmt: str, words: str
) -> None:
    with pytest.raises(MediaError, match=words):
        read(write_clip(tmp_path / name, [0], size=size, codec=codec, pix_fmt=pix_fmt))


def test_a_picture_that_grows_too_large_in_the_middle_is_left_out(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.mjpeg", at_rate(25, 1), codec="mjpeg", pix_fmt="yuvj420p")
    second = write_clip(tmp_path / "second.mjpeg", [0], size=(8192, 4400), codec="mjpeg", pix_fmt="yuvj420p")
    both = tmp_path / "both.mjpeg"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    _, info = read(both)
    assert info.frame_count == 25
    assert "left out because they cannot be decoded: 1." in " ".join(info.remarks)


def test_of_very_many_streams_no_more_are_opened(tmp_path: Path) -> None:
    for name in ("many.mov", "many.mkv"):
        with pytest.raises(MediaError, match=rf"{name}: has more than 32 streams.* keep its first video"):
            Clip(write_clip(tmp_path / name, [0], videos=34))
        read(write_clip(tmp_path / name, at_rate(10, 1), videos=31, sounds=[Sound(samples=tone(1))]))


def claiming(path: Path, samples: int) -> Path:
    """An mp4 whose tables say that it has so many frames, all of one size."""
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, content.index(b"stsz") + 8, 1, samples)
    struct.pack_into(">I", content, content.index(b"stts") + 12, samples)
    struct.pack_into(">I", content, content.index(b"stsc") + 16, samples)
    path.write_bytes(content)
    return path


def fragmented(path: Path, samples: int) -> Path:
    """An mp4 in pieces, the first of which says that it has so many frames, all alike."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    content = bytearray(write_clip(path, at_rate(25, 1), options=options).read_bytes())
    struct.pack_into(">I", content, content.index(b"trun") + 8, samples)
    path.write_bytes(content)
    return path


def compressed(path: Path) -> Path:
    """An mp4 with the header as QuickTime once compressed it."""
    content = path.read_bytes()
    start = content.index(b"moov") - 4
    packed = zlib.compress(content[start:])
    inner = struct.pack(">I4s4sI4sI", 12, b"dcom", b"zlib", 12 + len(packed), b"cmvd", len(content) - start) + packed
    header = struct.pack(">I4sI4s", 16 + len(inner), b"moov", 8 + len(inner), b"cmov") + inner
    path.write_bytes(content[:start] + header)
    return path


def test_tables_that_claim_more_than_a_clip_has_are_not_taken_in(tmp_path: Path) -> None:
    claims = [
        claiming(write_clip(tmp_path / "whole.mp4", at_rate(25, 1)), 10**7 + 1),
        compressed(claiming(write_clip(tmp_path / "packed.mov", at_rate(25, 1)), 10**7 + 1)),
        fragmented(tmp_path / "pieces.mp4", 10**7 + 1),
    ]
    for path in claims:
        before = resident_peak()
        with pytest.raises(MediaError, match=rf"{path.name}: its tables claim 10,000,\d+ frames and pieces of sound"):
            Clip(path)
        assert resident_peak() - before < 50e6


def test_tables_behind_many_boxes_are_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av2t_core.media.container.MP4_BOXES", 100)
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 1))
    clip.write_bytes(clip.read_bytes() + struct.pack(">I4s", 8, b"free") * 200)
    with pytest.raises(MediaError, match=r"clip\.mp4: it is in more than 100 pieces"):
        Clip(clip)


def test_honest_tables_are_no_obstacle(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    assert keyframes(compressed(write_clip(tmp_path / "packed.mov", at_rate(10, 2)))) == [(0, 9), (1, 19)]
    assert keyframes(write_clip(tmp_path / "pieces.mp4", at_rate(10, 2), options=options)) == [(0, 9), (1, 19)]
    sound = Sound(samples=tone(0.5))
    clip = write_clip(tmp_path / "pcm.mov", at_rate(10, 1), sounds=[sound])
    content = bytearray(clip.read_bytes())
    at = content.index(b"stsz", content.index(b"soun"))
    struct.pack_into(">I", content, at + 12, 3600 * SOUND_RATE)  # an hour of PCM has more samples than frames have
    clip.write_bytes(content)
    assert keyframes(clip) == [(0, 9)]


@pytest.mark.parametrize(("rate", "channels"), [(2_000_000_000, 1), (700_000, 16)])
def test_sound_that_is_too_fine_is_refused(tmp_path: Path, rate: int, channels: int) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(10, 1), sounds=[Sound(samples=tone(1, channels=2))])
    content = clip.read_bytes()
    frequency, count = content.index(b"\xb5\x88") + 2, content.index(b"\x9f\x81\x02") + 2  # Matroska's, as a double
    content = content[:frequency] + struct.pack(">d", rate) + content[frequency + 8 :]
    clip.write_bytes(content[:count] + bytes([channels]) + content[count + 1 :])
    with pytest.raises(MediaError, match=rf"clip\.mkv: its sound has {rate} samples a second in {channels} channels"):
        Clip(clip)


def test_sound_that_stands_still_is_not_gathered(tmp_path: Path) -> None:
    """Every piece of it says that it begins at the same time, so all of it is waited for."""
    clip = write_clip(tmp_path / "clip.mkv", at_rate(2, 4), sounds=[Sound(samples=tone(0.1, 8000), rate=8000)])
    standing = tmp_path / "standing.mkv"
    with av.open(str(clip)) as source, av.open(str(standing), "w") as to:
        video, sound = (to.add_stream_from_template(stream) for stream in source.streams)
        for packet in source.demux(0):
            if packet.dts is not None:
                packet.stream = video
                to.mux(packet)
        for _ in range(800):
            packet = av.Packet(bytes(1600))
            packet.pts, packet.dts, packet.time_base, packet.stream = 500, 500, Fraction(1, 1000), sound
            to.mux(packet)
    with pytest.raises(MediaError, match=r"standing\.mkv: more than 60 s of its sound lie before"):
        read(standing)


def test_not_one_frame_can_be_decoded(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 1))
    content = clip.read_bytes()
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    clip.write_bytes(content[:start] + bytes(end - start) + content[end:])

    with pytest.raises(MediaError, match=r"clip\.mp4: none of its frames can be decoded"):
        read(clip)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"missing\.mp4: there is no such file"):
        Clip(tmp_path / "missing.mp4")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is not a file"):
        Clip(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a letter, not a clip\n" * 100, "is not a video"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", "is not a video"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "is not a video"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)

    with pytest.raises(MediaError, match=rf"clip\.mp4: {message}"):
        Clip(path)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet'
    ' mimeType="video/mp4"><Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("scheme", ["", "file:", "http:"])
def test_a_playlist_opens_nothing(tmp_path: Path, kind: str, scheme: str) -> None:
    """Neither a file beside it nor an address, whatever the playlist calls itself."""
    (tmp_path / "behind").mkdir()
    real = write_clip(tmp_path / "behind" / "real.ts", at_rate(10, 2))
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(real.parent))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}/real.ts"
        path = tmp_path / "clip.m3u8"
        path.write_text(PLAYLISTS[kind].format(url=host if scheme == "http:" else f"{scheme}{real}"))
        for name in ("clip.m3u8", "clip.mp4", "clip.ts"):
            path = path.rename(tmp_path / name)
            with pytest.raises(MediaError, match="is not a video"):
                Clip(path)
        server.shutdown()
    assert asked == []


def test_a_name_that_looks_like_something_else_is_a_file(tmp_path: Path) -> None:
    for name in ("-i.mp4", "http:x.mp4", "frame%03d.mp4", "a clip; with $signs 'and' spaces.mp4"):
        assert keyframes(write_clip(tmp_path / "clip.mp4", at_rate(10, 1)).rename(tmp_path / name)) == [(0, 9)]


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone(1) * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = SOUND_RATE
        container.mux(stream.encode(frame))

    with pytest.raises(MediaError, match=r"song\.wav: has no video stream, only sound"):
        Clip(path)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=SOUND_RATE, layout="mono")
        cover = container.add_stream("mjpeg", rate=1, width=64, height=48, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(flat(0), format="rgb24")))
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(1), format="fltp", layout="mono")
        frame.sample_rate = SOUND_RATE
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))

    with pytest.raises(MediaError, match=r"song\.mp3: has no video stream, only sound"):
        Clip(path)


# Memory


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    def peak(seconds: float) -> int:
        """Peak memory of a process that reads a clip of so many seconds, in MiB."""
        clip = write_clip(tmp_path / f"{seconds}.mkv", at_rate(5, seconds), size=(640, 480), pix_fmt="yuv420p")
        program = (
            "import resource, sys, pathlib; from av2t_core.media.clip import Clip\n"
            "with Clip(pathlib.Path(sys.argv[1])) as clip:\n"
            "    for window in clip.windows(): pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        command = [sys.executable, "-c", program, str(clip)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # A second more holds 5 frames of 0.4 MiB as decoded and 0.9 MiB as RGB: 60 s would be 135 MiB and more.
    assert peak(60) - peak(3) < 25


# Real clips

EXPECTED = {  # windows, (width, height), frames, and a word of the remarks
    "cockatoo.mp4": (14, (1280, 720), 280, "digital silence"),
    "corrupted.mp4": (5, (1280, 720), 49, "cannot be decoded: 1"),
    "dog_barking_7fps_mono.mp4": (5, (320, 240), 37, ""),
    "dog_silent_audio_track.mp4": (10, (1280, 720), 289, "digital silence"),
    "hevc_no_audio.mp4": (1, (128, 128), 10, "sound is missing"),
    "kinetics_a.mp4": (10, (340, 256), 303, ""),
    "kinetics_b.mp4": (11, (340, 256), 332, ""),
    "multi_source.mp4": (5, (1280, 720), 150, ""),
    "one_pixel.mp4": (5, (1, 1), 5, "sound is missing"),
    "phone_vfr_rotated180.mp4": (2, (1280, 720), 25, "frame rate varies"),
    "rotated90_no_audio.mov": (1, (320, 568), 3, "sound is missing"),
    "two_speakers.mp4": (18, (1280, 720), 438, ""),
    "two_video_two_audio_streams.mp4": (13, (320, 180), 325, "2 video streams"),
    "video_starts_late.mp4": (10, (720, 480), 299, ""),
    "vp9_opus_60s.webm": (60, (176, 144), 1441, ""),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_clips(shared: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    count, size, frames, remark = EXPECTED[name]
    with Clip(shared / "media" / name) as clip:
        indices = []
        for window in clip.windows():
            indices.append(window.keyframe.index)
            assert window.image.shape == (size[1], size[0], 3)
            assert window.sound.second.shape[1] in (0, window.sound.rate)

    assert indices == list(range(count))
    assert (clip.info.width, clip.info.height, clip.info.frame_count) == (*size, frames)
    assert remark in " ".join(clip.info.remarks) if remark else not clip.info.remarks
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["dog_barking_7fps_mono.mp4", "vp9_opus_60s.webm", "video_starts_late.mp4"])
def test_keyframes_of_real_clips_lie_within_half_a_frame(shared: Path, name: str) -> None:
    _, info = read(shared / "media" / name)

    assert all(abs(k.time - (k.index + 15 / 16)) <= 0.5 / info.fps for k in info.keyframes)


def test_all_of_the_shared_clips_are_expected(shared: Path) -> None:
    assert {path.name for path in (shared / "media").iterdir()} - {"README.md"} == set(EXPECTED)
