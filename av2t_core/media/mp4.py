"""Writing an mp4 that every browser plays: H.264 and AAC, frames at times of their own."""

from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from numpy.typing import NDArray

_TIME_BASE = Fraction(1, 90_000)
_SOUND_RATE = 48_000  # Hz
_AV_COLORSPACE_BT709 = 1
# With B-frames an mp4 of variable frame rate ends before its last frame does.
_H264 = {"preset": "veryfast", "bf": "0"}
# The default movie clock of a millisecond would round where picture and sound begin.
_MP4 = {"movflags": "+faststart", "movie_timescale": str(_TIME_BASE.denominator)}


class Mp4Writer:
    """Takes images of one size and seconds of sound; times are seconds from the beginning. A context manager: the file
    is complete when it is left. `crf`: how much H.264 leaves out, from 0, nothing, to 51."""

    def __init__(
        self, path: Path, size: tuple[int, ...], pixel_aspect: Fraction, with_sound: bool, crf: int = 20
    ) -> None:
        height, width = size
        self._container = container = av.open(str(path), mode="w", format="mp4", options=_MP4)
        self._latest = -1  # in _TIME_BASE
        # yuv420p has one colour for two pixels
        self._padding = ((0, height % 2), (0, width % 2), (0, 0)) if height % 2 or width % 2 else None
        self._reformatter = VideoReformatter()  # one for all images: each prepares tables of its own
        self._video = container.add_stream("libx264", options={**_H264, "crf": str(crf)})
        context = self._video.codec_context
        context.width, context.height = width + width % 2, height + height % 2
        context.pix_fmt = "yuv420p"
        context.time_base = self._video.time_base = _TIME_BASE
        context.flags |= Flags.frame_duration
        context.sample_aspect_ratio = pixel_aspect
        context.colorspace = _AV_COLORSPACE_BT709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        # Every stream is declared before the first packet.
        self._audio = container.add_stream("aac", rate=_SOUND_RATE) if with_sound else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        with self._container:
            if error is None:
                for stream in (self._video, self._audio):
                    self._container.mux(stream.encode(None) if stream else [])

    def write_image(self, image: NDArray[np.uint8], time: float, lasts: float) -> None:
        """(H, W, 3) RGB from `time` on; an image that is not later than its predecessor is left out."""
        pts = round(time / _TIME_BASE)
        if pts <= self._latest:
            return
        self._latest = pts
        even = image if self._padding is None else np.pad(image, self._padding, mode="edge")
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(even, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.duration, frame.time_base = pts, round(lasts / _TIME_BASE), _TIME_BASE
        self._container.mux(self._video.encode(frame))

    def write_sound(self, samples: NDArray[np.float32], rate: int, second: int) -> None:
        """(channels, samples) from `second` on; the seconds come in their order."""
        if self._audio is None or not samples.shape[1]:
            return
        if len(samples) > 2:  # files know more layouts than players
            samples = samples.mean(axis=0, keepdims=True)
        layout = "mono" if len(samples) == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
        self._container.mux(self._audio.encode(frame))
