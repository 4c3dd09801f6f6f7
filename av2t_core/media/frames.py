"""The frames of a clip's video stream, one after the other, as a person sees them."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from av2t_core.errors import MediaError
from av2t_core.limits import CLOCK_JUMPS, PICTURE_PIXELS, PICTURE_SIDE
from av2t_core.media.container import StreamReader, open_container
from av2t_core.media.picture import Display, display_matrix, transposes
from av2t_core.media.timestamps import Timestamps

LONGEST_STILL = 3600.0  # seconds that a picture may stand still; a longer gap is a clock that jumped
_DEFAULT_RATE = 25.0
_SAME_RATE = 0.05  # how far the declared rate may be from the counted one; lost frames and rounding count
_SQUARE = 0.01  # how far a pixel's width over height may be from 1
_UNEVEN = 0.2  # of a period


@dataclass(frozen=True, kw_only=True)
class Frame:
    number: int  # 0-based, presentation order
    time: float  # seconds, the clip's own timestamps
    end: float  # seconds, when the next frame is due
    size: tuple[int, int]  # stored width and height of the clip's first frame
    picture: av.VideoFrame = field(repr=False)
    display: Display = field(repr=False)

    def rgb(self) -> NDArray[np.uint8]:
        """The picture as browsers display it: (H, W, 3). MediaError: it cannot be shown."""
        return self.display.rgb(self.picture, self.size)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much picture there is. `spans`: from when to when it lasts, in seconds of its own clock; more than one where
    the clock jumps, and of very many the last is left open to what follows. `rate`: frames a second, the average."""

    spans: list[tuple[float, float]]
    rate: float


class Frames(StreamReader):
    """The frames of the first video stream of a file, one by one."""

    def _open(self) -> None:
        # To FFmpeg, the cover picture of a song is a video stream.
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            holds = "only sound" if self._container.streams.audio else "nothing to see"
            raise MediaError(f"{self.name}: has no video stream, {holds}; use a clip with a picture")
        usable = [stream for stream in streams if stream.codec_context is not None]
        if not usable:
            raise MediaError(f"{self.name}: its video codec is not known here; convert it to H.264 in an mp4")
        self._stream = usable[0]
        self._require_size(self._stream.width, self._stream.height)
        self._display = Display(self.name)
        self.streams = len(streams)
        self.count = 0
        self.start = 0.0  # seconds, the first frame
        self.end = 0.0  # seconds, the end of the last frame
        self.pixel_aspect = Fraction(1)  # a displayed pixel's width over its height
        self._latest = 0.0  # seconds, the frame that was decoded last
        self._span = 0.0  # seconds from the first frame to the latest, without jumps
        self._gaps = (float("inf"), 0.0)  # seconds between two frames, the shortest and the longest
        self._backward = 0  # frames whose timestamp lies before their predecessor's
        self._resized = 0  # frames of another size than the first

    def _require_size(self, width: int, height: int) -> None:
        if width * height > PICTURE_PIXELS or max(width, height) > PICTURE_SIDE:
            raise MediaError(
                f"{self.name}: its frames have {width} x {height} pixels, and at most {PICTURE_SIDE} a side and"
                f" {PICTURE_PIXELS:,} in all can be used; scale it down to 8K or less"
            )

    @property
    def rate(self) -> float:
        """Frames a second, the average: as the container declares it where that is about what was decoded."""
        return self._rate((self.count - 1) / self._span if self._span else None)

    def _rate(self, counted: float | None) -> float:
        declared = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        if counted is None:
            return declared or _DEFAULT_RATE
        return declared if abs(declared - counted) <= _SAME_RATE * counted else counted

    @property
    def promised(self) -> float | None:
        """Seconds that the container says the picture lasts, None where it says nothing."""
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return self._container.duration / av.time_base if self._container.duration is not None else None

    def extent(self) -> Extent:
        """By its packets, all of which are read."""
        spans: list[tuple[float, float]] = []
        count, latest, moved = 0, 0.0, 0.0
        with open_container(self.path) as container, suppress(av.FFmpegError):  # what is cut ends there
            for packet in container.demux(container.streams[self._stream.index]):
                if not packet.size:  # the last one, which is for the decoder
                    continue
                ticks = packet.dts if packet.pts is None else packet.pts
                begun, until = spans[-1] if spans else (0.0, 0.0)
                time = until if ticks is None or packet.time_base is None else float(ticks * packet.time_base)
                end = time + self._lasts(packet)
                if not spans or (time - until > LONGEST_STILL and len(spans) < CLOCK_JUMPS):
                    spans.append((time, end))
                else:
                    spans[-1] = min(begun, time), max(until, end)
                    count, moved = count + 1, moved + max(0.0, time - latest)
                latest = max(latest, time)
        return Extent(spans=spans, rate=self._rate(count / moved if moved else None))

    def last_packet(self) -> float:
        """Seconds on the clip's own clock to the end of the last packet, of whatever stream; all are read."""
        end = self.end
        with open_container(self.path) as container, suppress(av.FFmpegError):
            for packet in container.demux():
                ticks = packet.dts if packet.pts is None else packet.pts
                if packet.size and ticks is not None and packet.time_base is not None:
                    end = max(end, float((ticks + (packet.duration or 0)) * packet.time_base))
        return end

    @property
    def zero(self) -> float:
        """Seconds on the clip's own clock at which it begins; a cut from a broadcast may begin hours after zero."""
        return max(0.0, (self._container.start_time or 0) / av.time_base)

    def __iter__(self) -> Iterator[Frame]:
        """Once. MediaError: not one frame can be decoded."""
        size: tuple[int, int] | None = None
        for picture, stamped in Timestamps().timed(self._decoded(self._stream)):
            if size is None:  # the container's word of it may be another
                size = picture.width, picture.height
                self._require_size(*size)
            self._resized += size != (picture.width, picture.height)
            # Where a raw stream has no timestamps, one frame follows the other at the stream's rate.
            time = self.end if stamped is None else stamped
            if self.count == 0:
                aspect = self._stream.sample_aspect_ratio or Fraction(1)
                self.pixel_aspect = 1 / aspect if transposes(display_matrix(picture)) else aspect
            frame = Frame(
                number=self.count,
                time=time,
                end=time + self._lasts(picture),
                size=size,
                picture=picture,
                display=self._display,
            )
            self._note(frame)
            yield frame
        if size is None:
            raise MediaError(
                f"{self.name}: none of its frames can be decoded; the file is damaged, or they have more than"
                f" {PICTURE_PIXELS:,} pixels"
            )

    def _note(self, frame: Frame) -> None:
        if self.count == 0:
            self.start = frame.time
        else:
            gap = frame.time - self._latest
            self._backward += gap < 0
            if 0 < gap <= LONGEST_STILL:
                self._span += gap
                self._gaps = min(self._gaps[0], gap), max(self._gaps[1], gap)
        self._latest = frame.time
        self.end = max(self.end, frame.end)
        self.count += 1

    def remarks(self) -> Iterator[str]:
        """Sentences about what was left out or guessed, once all frames have been decoded."""
        if self.streams > 1:
            first = self._stream
            yield f"It has {self.streams} video streams: the first, {first.width}x{first.height}, is used."
        if self.undecodable:
            yield f"Frames left out because they cannot be decoded: {self.undecodable}."
        if self.damaged:
            yield f"Frames that are damaged and used as far as they can be decoded: {self.damaged}."
        if self.cut:
            yield f"The file is damaged at {self.end:.1f} s: what comes after cannot be read."
        if self._backward:
            yield f"Frames whose timestamp lies before the frame that they follow: {self._backward}."
        if self._resized:
            yield f"Frames of another size than the first, scaled to its size: {self._resized}."
        yield from self._display.remarks()
        if abs(self.pixel_aspect - 1) > _SQUARE:
            aspect = f"{float(self.pixel_aspect):.3f} to 1"
            yield f"Its pixels are not square, {aspect}: frames and masks have the stored pixels, unscaled."
        shortest, longest = self._gaps
        tick = float(self._stream.time_base or 0)
        rounded = tick if 2 * tick < 1 / self.rate else 0.0  # many containers count in milliseconds
        if not self.undecodable and longest - shortest > max(_UNEVEN / self.rate, 1.5 * rounded):
            yield "The frame rate varies: frames are named by their timestamps, and fps is the average."

    def _lasts(self, picture: "av.VideoFrame | av.Packet[Any]") -> float:
        """Seconds for which a picture is shown, as its container says, else one period of the stream's rate."""
        lasts = float(picture.duration * picture.time_base) if picture.duration and picture.time_base else 0.0
        return lasts if 0 < lasts <= LONGEST_STILL else 1 / self.rate
