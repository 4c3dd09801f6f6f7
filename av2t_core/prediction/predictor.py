"""From windows to masks at native size, for the command line, the worker and the evaluation alike."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Self, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.ahead import read_ahead
from av2t_core.encoders.naming import Namer
from av2t_core.errors import ConfigError, MemoryShortError
from av2t_core.media.clip import Keyframe, Window
from av2t_core.memory import device_peak, is_out_of_memory
from av2t_core.model.av2t_sam import lifted
from av2t_core.model.inputs import to_device
from av2t_core.model.presets import PRESETS, check_preset
from av2t_core.prediction.calibration import Calibration
from av2t_core.prediction.finding import find_logits, find_objects
from av2t_core.prediction.objects import Detection, Evidence, Tracker, joined
from av2t_core.segmenters import Candidates
from av2t_core.versions.checkpoint import Loaded, Precision, build, load_version, randomise
from av2t_core.versions.version import resolve

SILENCE_DBFS = -60.0
"""Quieter than this (RMS, relative to full scale) a window counts as silent."""
SILENT = 0.5
"""The frame of a window that is more probably silent than this is not segmented."""

BESIDE = 1.5
"""Seconds from a keyframe to the next within which the sound of one says something of the other."""

LARGEST_BATCH = 16
# A CPU gains nothing by more, its memory has other uses, and progress should be seen.
LARGEST_BATCH_ON_CPU = 4
LARGEST_PIXELS_ON_CPU = 2 * 1024 * 1024  # of SAM's square inputs
# What a keyframe takes while it is computed, for each pixel of SAM's square input: of SAM2-L in fp32, the largest.
BYTES_PER_PIXEL = 500
BYTES_PER_PIXEL_ON_CPU = 1500  # generous
# A mask or a part of one below this share of the frame is noise of the coarse grid.
SMALLEST_PART = 0.001
# A name of less than this share of the likeliest one's probability is left out.
LEAST_LIKELY = 0.2

T = TypeVar("T")
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Heard:
    """A window and the embedding (audio_width,) of its sound; `beside` (2, audio_width): of the sounds before and after
    it in the clip, its own in place of one that is not there."""

    window: Window
    a: Tensor
    beside: Tensor

    @property
    def image(self) -> NDArray[np.uint8]:
        return self.window.image


S = TypeVar("S", Window, _Heard)


@dataclass(frozen=True, kw_only=True)
class KeyframePrediction:
    """What sounds at a keyframe.

    `score`: the probability that its mask, or its "nothing", is right (see Calibration); of a model version without a
    calibration, the IoU that it expects. `presence`: the probability that something in view sounds, None where it is
    not known.
    """

    keyframe: Keyframe
    image: NDArray[np.uint8]  # (H, W, 3)
    level: float  # of the window's sound, RMS in dBFS
    presence: float | None
    score: float
    objects: tuple[Detection, ...] = ()
    evidence: Evidence | None = None  # None for a silent window, whose frame is not segmented

    @property
    def sounding(self) -> bool:
        return bool(self.objects)

    @cached_property
    def mask(self) -> Mask:
        """(H, W), the union of the objects."""
        union = np.zeros(self.image.shape[:2], np.bool_)
        for detection in self.objects:
            union |= detection.mask
        return union


class Predictor:
    """A loaded model version. Not thread-safe; one for each process."""

    def __init__(
        self,
        model_version: str,
        loaded: Loaded,
        *,
        batch_size: int | None = None,
        silence_dbfs: float = SILENCE_DBFS,
        least_score: float = 0.0,
        calibration: Calibration | None = None,
    ) -> None:
        """`batch_size`: keyframes at a time; None fits it to the memory. It is halved whenever it proves too large.

        `least_score`: objects with a lower one are left out.
        """
        self.model_version = model_version
        self.batch_size = batch_size or _fitting_batch(loaded)
        self.loaded = loaded
        self.silence_dbfs = silence_dbfs
        self.least_score = least_score
        self.calibration = calibration

    @classmethod
    def load(
        cls,
        name: str,
        device: str = "auto",
        *,
        models_dir: Path | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        silence_dbfs: float = SILENCE_DBFS,
        least_score: float = 0.0,
    ) -> Self:
        """`name`: a model version or a preset. `device`: auto, cpu, cuda or cuda:N. `precision`: auto, fp32 or bf16.

        WeightsError: there is no such version, or its weights are missing or damaged. ConfigError: no such device.
        """
        version = resolve(name, models_dir)
        target = _device(device)
        loaded = load_version(version, target, _precision(precision, target, version.card.preset))
        return cls(
            version.name,
            loaded,
            batch_size=batch_size,
            silence_dbfs=silence_dbfs,
            least_score=least_score,
            calibration=Calibration.of(version.card),
        )

    @classmethod
    def random(
        cls, preset: str, device: str = "auto", *, precision: str = "auto", batch_size: int | None = None
    ) -> Self:
        """A preset with drawn weights, to see how fast and large it is; its masks mean nothing. WeightsError."""
        target = _device(device)
        loaded = randomise(build(check_preset(preset)), target, _precision(precision, target, preset))
        return cls(f"{preset}-random", loaded, batch_size=batch_size)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model can name; empty if it cannot name anything."""
        return self.loaded.namer.labels if self.loaded.namer else ()

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of the names that it will never use, for they mean nothing to it and nobody has taught it."""
        unknown = self.loaded.finder.unknown(names) if self.loaded.finder else []
        return [name for name in unknown if name not in self.labels]

    @property
    def gpu_memory(self) -> int | None:
        """Bytes, the most that was allocated on the GPU; None on a CPU."""
        return device_peak(self.loaded.device)

    def predict(
        self, windows: Iterable[Window], names: Sequence[str] = (), *, context: int = 0
    ) -> Generator[KeyframePrediction]:
        """One prediction for each window, in order; holds two batches at a time, and decodes the next one meanwhile.

        `names`: what objects may be called, for a model that can read; one that knows its own names keeps to them.
        `context`: so many windows at the start are only heard, for what they say of those after them.
        Windows of several clips may follow one another: batches are filled by what fits, not by where a clip ends.
        """
        namer = self.loaded.namer_for(names)
        compute = partial(self._predict_batch, namer=namer, names=tuple(names))
        yield from self._in_batches(windows, compute, context)

    def predict_clip(
        self, windows: Iterable[Window], names: Sequence[str] = (), tracker: Tracker | None = None, *, context: int = 0
    ) -> Generator[KeyframePrediction]:
        """As `predict`, for the windows of one clip: its objects keep their numbers from keyframe to keyframe.

        `tracker`: the one of the clip's earlier windows.
        """
        tracker = tracker or Tracker()
        with closing(self.predict(windows, names, context=context)) as predictions:
            for prediction in predictions:
                yield replace(prediction, objects=tracker.follow(prediction.objects))

    def logits(self, windows: Iterable[Window], size: tuple[int, int]) -> Generator[Tensor]:
        """What the model itself says of each window, in order: its best mask's logits (H, W) at `size`, on the host.

        As `predict` but for its rules: silent windows are segmented, too, and no part is left out for being small.
        """
        yield from self._in_batches(windows, partial(self._logits_batch, size=size))

    @torch.inference_mode()
    def silence(self, windows: list[Window]) -> list[float]:
        """The probability that nothing sounds in a window, in view or not; as sure as the level alone can say, where
        the model cannot name anything."""
        levels = [level_dbfs(window.sound.second) for window in windows]
        return self._silence(levels, self._hear(windows), self.loaded.namer)

    def _in_batches(
        self, windows: Iterable[Window], compute: Callable[[list[_Heard]], list[T]], context: int = 0
    ) -> Generator[T]:
        """As many windows at a time as fit, while the next ones are decoded."""
        with closing(read_ahead(iter(windows), self.batch_size)) as iterator:
            heard = islice(self._listen(iterator), context, None)
            while batch := list(islice(heard, self.batch_size)):
                # The whole batch first: the consumer may take its time, and inference mode must not last as long.
                yield from self._within_memory(compute, batch)

    def _listen(self, windows: Iterator[Window]) -> Iterator[_Heard]:
        """Each window as soon as the one after it has been heard, too."""
        sounds: Iterator[tuple[Window, Tensor] | None] = chain(self._sounds(windows), [None])
        before, now = None, next(sounds)
        for after in sounds:
            assert now is not None
            window, a = now
            earlier = before[1] if before and _adjoin(before[0], window) else a
            later = after[1] if after and _adjoin(window, after[0]) else a
            yield _Heard(window=window, a=a, beside=torch.stack([earlier, later]))
            before, now = now, after

    def _sounds(self, windows: Iterator[Window]) -> Iterator[tuple[Window, Tensor]]:
        # From each batch to the next there is one more than is segmented, and no more than that.
        count = self.batch_size + 1
        while batch := list(islice(windows, count)):
            count = self.batch_size
            yield from zip(batch, self._within_memory(lambda some: list(self._hear(some)), batch), strict=True)

    def _within_memory(self, compute: Callable[[list[S]], list[T]], windows: list[S]) -> list[T]:
        """In smaller batches, from now on, where the device's memory does not suffice. AV2TError: not even for one."""
        done: list[T] = []
        while len(done) < len(windows):
            some = windows[len(done) : len(done) + self.batch_size]
            try:
                done += compute(some)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(some) == 1:
                    raise MemoryShortError(
                        f"one keyframe of {windows[0].image.shape[1]} x {windows[0].image.shape[0]} pixels needs more"
                        f" memory than {self.loaded.device} has left; free some, or use a smaller model"
                    ) from error
                self.batch_size = max(1, len(some) // 2)
        return done

    @torch.inference_mode()
    def _logits_batch(self, heard: list[_Heard], size: tuple[int, int]) -> list[Tensor]:
        windows, a, beside = _batch(heard)
        if self.loaded.finder is not None:
            return list(find_logits(self.loaded, windows, a, beside, size))
        union = self._lifted(self._segment(windows, a).union)
        return list(self.loaded.model.segmenter.upsample(union, size).cpu())

    @torch.inference_mode()
    def _predict_batch(
        self, heard: list[_Heard], namer: Namer | None, names: Sequence[str]
    ) -> list[KeyframePrediction]:
        windows, a, _ = _batch(heard)
        levels = [level_dbfs(window.sound.second) for window in windows]
        silence = self._silence(levels, a, namer)
        predictions = [
            KeyframePrediction(keyframe=w.keyframe, image=w.image, level=level, presence=1 - p, score=p)
            for w, level, p in zip(windows, levels, silence, strict=True)
        ]
        if audible := [i for i, probability in enumerate(silence) if probability <= SILENT]:
            some, loud = [heard[i] for i in audible], [levels[i] for i in audible]
            found = self._predict_audible(some, loud, namer, names)
            for i, prediction in zip(audible, found, strict=True):
                predictions[i] = prediction
        return predictions

    def _predict_audible(
        self, heard: list[_Heard], levels: list[float], namer: Namer | None, names: Sequence[str]
    ) -> list[KeyframePrediction]:
        """Of windows in which something sounds."""
        windows, a, beside = _batch(heard)
        if self.loaded.finder is not None:
            found = find_objects(self.loaded, windows, a, beside, names)
        else:
            found = self._aligned_objects(windows, a, namer)
        return [
            self._judged(window, level, objects, evidence)
            for window, level, (objects, evidence) in zip(windows, levels, found, strict=True)
        ]

    def _aligned_objects(
        self, windows: list[Window], a: Tensor, namer: Namer | None
    ) -> list[tuple[list[Detection], Evidence]]:
        """What AV2T-SAM masks in each window: the parts of the mask, named, and what the model says of the whole."""
        found = self._segment(windows, a)
        ious, peaks = found.scores.amax(dim=-1).clamp(0, 1), found.union.amax(dim=(-2, -1)).float()
        # One after the other, for at native size a frame may be large.
        masks = [self._masks(found, index, window.image.shape[:2]) for index, window in enumerate(windows)]
        names = self._names(windows, [[part for parts, _ in some for part in parts] for some in masks], a, namer)
        surest = namer.heard(a).amax(dim=-1) if namer else torch.ones(len(windows))
        said = zip(ious.tolist(), peaks.tolist(), surest.tolist(), strict=True)
        results = []
        for some, named, (iou, peak, surest_) in zip(masks, names, said, strict=True):
            objects: list[Detection] = []
            for parts, score in some:
                objects += joined([Detection(names=next(named), score=score, mask=part) for part in parts])
            evidence = Evidence(
                iou=iou,
                peak=peak,
                heard=surest_,
                match=max((each.likelihood for each in objects), default=0.0),
                share=sum(float(each.mask.mean()) for each in objects),
            )
            results.append((objects, evidence))
        return results

    def _masks(self, found: Candidates, index: int, size: tuple[int, int]) -> list[tuple[list[Mask], float]]:
        """Of each mask that counts for a window: its parts (H, W) at `size`, and its score."""
        counted = found.counts[index]
        masks = []
        for logits, score in zip(found.logits[index, counted], found.scores[index, counted], strict=True):
            native = self.loaded.model.segmenter.upsample(self._lifted(logits[None]), size)[0] > 0
            masks.append((_parts(np.asarray(native.cpu().numpy(), np.bool_)), float(score.clamp(0, 1))))
        return masks

    def _judged(
        self, window: Window, level: float, objects: Sequence[Detection], evidence: Evidence
    ) -> KeyframePrediction:
        presence, unseen = None, evidence.iou  # the score of a keyframe without a mask
        if self.calibration is not None:
            presence = self.calibration.presence_of(evidence)
            unseen = 1 - presence
            objects = [replace(each, score=self.calibration.right_of(each.evidence_of(evidence))) for each in objects]
        objects = [each for each in objects if each.score >= self.least_score]
        areas, scores = [int(each.mask.sum()) for each in objects], [each.score for each in objects]
        return KeyframePrediction(
            keyframe=window.keyframe,
            image=window.image,
            level=level,
            presence=presence,
            score=float(np.average(scores, weights=areas)) if objects else unseen,
            objects=tuple(objects),
            evidence=evidence,
        )

    def _silence(self, levels: list[float], a: Tensor, namer: Namer | None) -> list[float]:
        heard = namer.silence(a).tolist() if namer else [0.0] * len(levels)
        return [p if level > self.silence_dbfs else 1.0 for p, level in zip(heard, levels, strict=True)]

    @torch.inference_mode()
    def _hear(self, windows: list[Window]) -> Tensor:
        """The sounds' embeddings (B, audio_width)."""
        return self.loaded.audio_encoder.encode([window.sound for window in windows])

    def _segment(self, windows: list[Window], a: Tensor) -> Candidates:
        """One prompt for each window."""
        loaded, segmenter = self.loaded, self.loaded.model.segmenter
        images = to_device([window.image for window in windows], loaded.device)
        v = loaded.image_encoder.encode(images)  # (B, image_width)
        with torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.precision == "bf16"):
            return loaded.model.candidates(segmenter.inputs(segmenter.squares(images)), v, a)

    def _lifted(self, logits: Tensor) -> Tensor:
        reach = self.loaded.model.config.mask_reach
        return logits if reach is None else lifted(logits, reach)

    def _names(
        self, windows: list[Window], parts: list[list[Mask]], a: Tensor, namer: Namer | None
    ) -> list[Iterator[dict[str, float]]]:
        """What the parts of each window's mask may be called, by what is heard and what is seen in them."""
        counts = [len(some) for some in parts]
        if namer is None or not any(counts):
            return [repeat({}, count) for count in counts]
        crops = [crop(window.image, part) for window, some in zip(windows, parts, strict=True) for part in some]
        v = torch.cat(
            [
                self.loaded.image_encoder.encode(to_device(crops[i : i + LARGEST_BATCH], self.loaded.device))
                for i in range(0, len(crops), LARGEST_BATCH)
            ]
        )
        heard = namer.heard(a).repeat_interleave(torch.tensor(counts, device=a.device), 0)
        named = iter([_likeliest(row, namer.labels) for row in (heard * namer.seen(v)).tolist()])
        return [islice(named, count) for count in counts]


def _adjoin(window: Window, following: Window) -> bool:
    """Whether one follows the other in a clip whose keyframes are not spread far."""
    one, other = window.keyframe, following.keyframe
    return other.index == one.index + 1 and 0 < other.time - one.time <= BESIDE


def _batch(heard: Sequence[_Heard]) -> tuple[list[Window], Tensor, Tensor]:
    """Windows, a (B, audio_width) and beside (B, 2, audio_width)."""
    a, beside = torch.stack([each.a for each in heard]), torch.stack([each.beside for each in heard])
    return [each.window for each in heard], a, beside


def level_dbfs(audio: NDArray[np.float32]) -> float:
    """The RMS level of a window (channels, samples) in decibels relative to full scale; -inf without any sound."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * float(np.log10(power)) if power > 0 else -float("inf")


def _likeliest(probabilities: Sequence[float], labels: Sequence[str]) -> dict[str, float]:
    """Of an object's probability for each label those that matter, the highest first."""
    least = LEAST_LIKELY * max(probabilities)
    some = [(label, p) for label, p in zip(labels, probabilities, strict=True) if p >= least]
    return dict(sorted(some, key=lambda item: -item[1]))


def _parts(mask: Mask) -> list[Mask]:
    """The connected parts of a mask that are large enough to be something."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    return [parts == i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= SMALLEST_PART * mask.size]


def crop(image: NDArray[np.uint8], part: Mask) -> NDArray[np.uint8]:
    """The part's surroundings: its box with a fifth of it on every side."""
    x, y, width, height = cv2.boundingRect(part.view(np.uint8))
    margin = max(width, height) // 5
    rows = slice(max(0, y - margin), y + height + margin)
    return np.ascontiguousarray(image[rows, max(0, x - margin) : x + width + margin])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device; use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch sees no GPU; use the device cpu")
    return device


def _precision(name: str, device: torch.device, preset: str) -> Precision:
    """`auto` is bf16 where the device computes in it and the model is large enough to gain by it."""
    if name not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"{name!r} is no precision; use auto, fp32 or bf16")
    if name != "auto":
        return "bf16" if name == "bf16" else "fp32"
    return "bf16" if computes_bf16(device) and PRESETS[preset].gains_by_bf16 else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether it has instructions for bfloat16; without them that is several times slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _fitting_batch(loaded: Loaded) -> int:
    """How many keyframes a batch may have by the memory that is free, as far as that can be told beforehand."""
    device, pixels = loaded.device, loaded.model.segmenter.image_size**2
    if device.type == "cuda":
        free, largest, each = torch.cuda.mem_get_info(device)[0], LARGEST_BATCH, BYTES_PER_PIXEL * pixels
    else:
        free, each = _available_memory(), BYTES_PER_PIXEL_ON_CPU * pixels
        largest = min(LARGEST_BATCH_ON_CPU, LARGEST_PIXELS_ON_CPU // pixels)
    return max(1, min(largest, free // 2 // each))


def _available_memory() -> int:
    """Bytes that processes can have without swapping."""
    with open("/proc/meminfo") as file:
        kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    return kilobytes * 1024
