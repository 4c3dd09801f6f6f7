"""Small clips with known content, written by the tests that read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

SOUND_RATE = 48_000
_CLOCK = Fraction(1, 90_000)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """(channels, samples) of float32 that begin at `start` seconds."""

    samples: NDArray[np.float32]
    start: float = 0.0
    rate: int = SOUND_RATE


def tone(seconds: float, rate: int = SOUND_RATE, channels: int = 1, level: float = 0.5) -> NDArray[np.float32]:
    """A tone of 440 Hz: (channels, samples)."""
    wave = level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def at_rate(rate: float, seconds: float, start: float = 0.0) -> list[float]:
    """The times of frames at `rate` a second."""
    return [start + i / rate for i in range(round(rate * seconds))]


def grey(number: int) -> int:
    """The brightness of the frame `number`, so that a test sees which frame it got."""
    return 20 + number * 5 % 220


def flat(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    return np.full((height, width, 3), grey(number), np.uint8)


def write_clip(
    path: Path,
    times: Sequence[float],
    *,
    images: Sequence[NDArray[np.uint8]] | None = None,
    size: tuple[int, int] = (64, 48),
    lasts: float | None = None,
    sounds: Sequence[Sound] = (),
    videos: int = 1,
    codec: str = "libx264",
    pix_fmt: str = "yuv444p",
    sound_codec: str = "pcm_s16le",
    rotation: int = 0,
    mirrored: bool = False,
    pixel_aspect: Fraction | None = None,
    declared_rate: int | None = None,
    b_frames: int = 0,
    clock: Fraction = _CLOCK,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Frames at `times` (flat and of `grey(number)` unless `images` are given) and sounds, in the container of `path`.

    `lasts`: seconds that the last frame shows; as long as its predecessor by default. `declared_rate` is what the
    container says, true or not. `b_frames`: between two others, by which the order of decoding is another. `clock`: a
    tick's seconds.
    """
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        streams = []
        for _ in range(videos):
            stream = container.add_stream(codec, rate=declared_rate or _usual_rate(times))
            assert isinstance(stream, VideoStream)
            context = stream.codec_context
            height, width = images[0].shape[:2] if images is not None else size[::-1]
            context.width, context.height, context.pix_fmt = width, height, pix_fmt
            context.time_base = stream.time_base = clock
            context.flags |= av.codec.context.Flags.frame_duration
            if codec == "libx264":
                bf = {"bf": str(b_frames), "b-adapt": "0", "b-pyramid": "normal"}
                context.options = {"preset": "ultrafast", "qp": "4", "g": "10", **bf}
            elif b_frames:
                context.max_b_frames = b_frames
            if pixel_aspect:
                context.sample_aspect_ratio = pixel_aspect
            if rotation or mirrored:
                stream.set_display_rotation(rotation, hflip=mirrored)
            streams.append(stream)
        tracks: list[tuple[Sound, AudioStream]] = []
        for sound in sounds:
            track = container.add_stream(sound_codec, rate=sound.rate)
            assert isinstance(track, AudioStream)
            track.codec_context.layout = "mono" if len(sound.samples) == 1 else "stereo"
            tracks.append((sound, track))
        ends = [*times[1:], times[-1] + (lasts or (times[-1] - times[-2] if len(times) > 1 else 1.0))]
        for number, (time, end) in enumerate(zip(times, ends, strict=True)):
            image = images[number] if images is not None else flat(number, *size)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.duration = round(time / clock), round((end - time) / clock)
            frame.time_base = clock
            for stream in streams:
                container.mux(stream.encode(frame))
        for sound, track in tracks:
            layout = "mono" if len(sound.samples) == 1 else "stereo"
            for first in range(0, sound.samples.shape[1], 1024):
                chunk = np.ascontiguousarray(sound.samples[:, first : first + 1024])
                piece = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout)
                piece.sample_rate, piece.time_base = sound.rate, Fraction(1, sound.rate)
                piece.pts = round(sound.start * sound.rate) + first
                container.mux(track.encode(piece))
        for stream in streams:
            container.mux(stream.encode(None))
        for _, track in tracks:
            container.mux(track.encode(None))
    return path


def _usual_rate(times: Sequence[float]) -> int:
    return round(1 / (times[1] - times[0])) if len(times) > 1 else 1
