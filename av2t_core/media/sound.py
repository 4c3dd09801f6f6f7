"""The sound of a clip, second by second, laid on the same clock as its frames."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import av
import numpy as np
from numpy.typing import NDArray

from av2t_core.errors import MediaError
from av2t_core.limits import SOUND_HELD, SOUND_RATE, SOUND_SAMPLES
from av2t_core.media.container import StreamReader

# Containers round timestamps to as much as a millisecond or two: below this many seconds a frame simply follows its
# predecessor, for to obey would tear the sound at every frame.
_JITTER = 0.02

SILENCE = 1e-4
"""Full scale is 1: -80 dB lies above the rounding noise of 16-bit silence and below anything that can be heard."""

MARGIN = 64
"""Samples of its neighbours that a second carries on either side: a resampler reads beyond what it gives."""

_NOTABLE = 0.5  # seconds between the ends of sound and picture from which on it is said


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One second of sound with the edges of its neighbours.

    `samples`: (channels, MARGIN + rate + MARGIN) in -1..1, zeros where there is no sound, and `rate` in Hz; or (1, 0)
    and 0 where there is nothing to hear. `end`: the index into `samples` from which on the clip has no more sound,
    where a resampler would let the last of it ring on; None if the sound goes on.
    """

    samples: NDArray[np.float32]
    rate: int
    end: int | None = None

    @classmethod
    def alone(cls, second: NDArray[np.float32], rate: int) -> Self:
        """A second (channels, rate) with silence around it."""
        return cls(samples=np.pad(second, ((0, 0), (MARGIN, MARGIN))), rate=rate)

    @property
    def second(self) -> NDArray[np.float32]:
        """(channels, rate), or (1, 0): a view."""
        return self.samples[:, MARGIN:-MARGIN]


class Soundtrack(StreamReader):
    """The sound of the first audio stream of a file, second by second.

    `rate` is in Hz, `channels` a count; both are those of the first frame that can be decoded, and sound that changes
    on the way is converted to them. `rate` is 0 where there is nothing to hear. MediaError: there is more of it, or it
    is in greater disorder, than can be held.
    """

    def _open(self) -> None:
        self.streams = len(self._container.streams.audio)
        self.rate = self.channels = 0
        self.start: float | None = None  # seconds, the first sample
        self.peak = 0.0  # loudest sample that `second` gave, 1 is full scale
        self._chunks: deque[tuple[int, NDArray[np.float32]]] = deque()  # (position in samples, (channels, samples))
        self._end = 0  # samples, the last that was read
        self._source = self._read()
        self._pull()

    @property
    def end(self) -> float:
        """Seconds to the last sample that was read."""
        return self._end / self.rate if self.rate else 0.0

    def second(self, start: float) -> Sound:
        """[start, start + 1) s of the clip's clock. `start` must not decrease."""
        if not self.rate:
            return Sound(samples=np.zeros((1, 0), np.float32), rate=0)
        first = round(start * self.rate) - MARGIN
        last = first + self.rate + 2 * MARGIN
        self._read_to(last, forget=first)
        out = np.zeros((self.channels, last - first), np.float32)
        for position, samples in self._chunks:
            begin, end = max(position, first), min(position + samples.shape[1], last)
            if begin < end:
                out[:, begin - first : end - first] = samples[:, begin - position : end - position]
        sound = Sound(samples=out, rate=self.rate, end=max(0, self._end - first) if self._end < last else None)
        self.peak = max(self.peak, float(np.abs(sound.second).max()))
        return sound

    @property
    def audible(self) -> bool:
        """Whether any `second` so far held more than digital silence."""
        return self.peak >= SILENCE

    def remarks(self, start: float, end: float) -> Iterator[str]:
        """Sentences about the sound of a picture that lasts from `start` to `end` seconds, after its last `second`."""
        if not self.rate:
            unheard = "cannot be decoded" if self.streams else "is missing"
            yield f"The sound {unheard}: nothing is heard in this clip."
            return
        if self.streams > 1:
            yield f"It has {self.streams} audio streams: the first, {self.rate} Hz, is used."
        if self.undecodable or self.cut:
            yield "Parts of the sound cannot be decoded and count as silence."
        if not self.audible:
            yield "The sound is digital silence throughout: nothing is heard in this clip."
        if self.start is not None and self.start - start > _NOTABLE:
            yield f"The sound begins {self.start - start:.1f} s after the picture; before it counts as silence."
        beyond = round((end + _NOTABLE) * self.rate)
        self._read_to(beyond, forget=beyond)
        if self.end > end + _NOTABLE:
            yield "The sound goes on after the picture has ended; that part is left out."
        elif end - self.end > _NOTABLE:
            yield f"The sound ends {end - self.end:.1f} s before the picture; from there it counts as silence."

    def _read_to(self, position: int, forget: int) -> None:
        while self._chunks and self._end_of(0) <= forget:
            self._chunks.popleft()
        held = sum(samples.shape[1] for _, samples in self._chunks)
        while (not self._chunks or self._end_of(-1) < position) and self._pull():
            if self._end_of(-1) <= forget:
                self._chunks.pop()
                continue
            held += self._chunks[-1][1].shape[1]
            if held > SOUND_HELD * self.rate:
                raise MediaError(
                    f"{self.name}: more than {SOUND_HELD} s of its sound lie before {position / self.rate:.1f} s where"
                    " one does; its timestamps are damaged, convert it anew"
                )

    def _end_of(self, chunk: int) -> int:
        position, samples = self._chunks[chunk]
        return position + int(samples.shape[1])

    def _pull(self) -> bool:
        if (chunk := next(self._source, None)) is None:
            return False
        self._chunks.append(chunk)
        self._end = self._end_of(-1)
        return True

    def _read(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        streams = [stream for stream in self._container.streams.audio if stream.codec_context is not None]
        if not streams:
            return
        expected: int | None = None
        to_float: av.AudioResampler | None = None
        source: tuple[str, str, int] | None = None
        frame: av.AudioFrame
        for frame in self._decoded(streams[0]):
            if not self.rate:
                rate, channels, layout = frame.sample_rate, frame.layout.nb_channels, frame.layout
                if rate > SOUND_RATE or rate * channels > SOUND_SAMPLES:
                    raise MediaError(
                        f"{self.name}: its sound has {rate} samples a second in {channels} channels, and at most"
                        f" {SOUND_RATE}, and {SOUND_SAMPLES:,} of all channels, can be used; convert it to 48000 Hz"
                    )
                self.rate, self.channels = rate, channels
            if frame.sample_rate != self.rate and frame.samples > SOUND_HELD * frame.sample_rate:
                raise MediaError(
                    f"{self.name}: its sound goes over from {self.rate} to {frame.sample_rate} Hz in the middle, so"
                    f" that one piece of it lasts longer than {SOUND_HELD} s; convert it anew"
                )
            if source != (source := (frame.format.name, frame.layout.name, frame.sample_rate)):
                # Packed, for of planes of their own PyAV reads only eight and crashes at the ninth.
                to_float = av.AudioResampler(format="flt", layout=layout, rate=self.rate)
            assert to_float is not None
            time = frame.time
            for converted in to_float.resample(frame):
                packed = converted.to_ndarray().reshape(-1, self.channels)
                samples = np.nan_to_num(np.ascontiguousarray(packed.T, np.float32))  # (channels, samples)
                position = expected if time is None else round(time * self.rate)
                if expected is not None and position is not None and abs(position - expected) <= _JITTER * self.rate:
                    position = expected
                position = position or 0
                if self.start is None:
                    self.start = position / self.rate
                yield position, samples
                expected, time = position + samples.shape[1], None
