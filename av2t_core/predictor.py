"""From windows to masks at native size: the one road that the command line, the worker and the evaluation share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from av2t_core.checkpoint import Loaded, load_version
from av2t_core.errors import ConfigError
from av2t_core.media import Keyframe, Window
from av2t_core.model.inputs import multimodal_images, sam_images
from av2t_core.model.segmenter import best_mask
from av2t_core.versions import resolve

# Quieter than this (RMS, relative to full scale) a window counts as silent and is not looked at.
SILENCE_DBFS = -60.0
# A mask or a part of one below this share of the frame is noise of the coarse grid.
SMALLEST_PART = 0.001


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One thing that sounds. `label` is None where the model cannot name it; `score` in 0..1; mask (H, W)."""

    label: str | None
    score: float
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the mask in pixels."""
        x, y, width, height = cv2.boundingRect(self.mask.view(np.uint8))
        return int(x), int(y), int(width), int(height)


@dataclass(frozen=True, kw_only=True)
class KeyframePrediction:
    """What sounds at a keyframe. `score` is the IoU that the model expects of its mask (or of its "nothing")."""

    keyframe: Keyframe
    image: NDArray[np.uint8]  # (H, W, 3)
    sounding: bool
    score: float
    mask: NDArray[np.bool_]  # (H, W), the union of the objects
    objects: tuple[Detection, ...]


class Predictor:
    """A loaded model version. Not thread-safe; one for each process."""

    def __init__(self, model_version: str, loaded: Loaded, batch_size: int = 8) -> None:
        self.model_version = model_version
        self.batch_size = batch_size
        self._loaded = loaded

    @classmethod
    def load(cls, name: str, device: str = "auto", batch_size: int = 8, models_dir: Path | None = None) -> Self:
        """`name`: a model version or a preset. `device`: auto, cpu, cuda or cuda:N. WeightsError, ConfigError."""
        version = resolve(name, models_dir)
        return cls(version.name, load_version(version, _device(device)), batch_size)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model can name; empty if it cannot name anything."""
        return self._loaded.namer.labels if self._loaded.namer else ()

    def predict(self, windows: Iterable[Window]) -> Iterator[KeyframePrediction]:
        """One prediction for each window, in order; holds `batch_size` windows at a time."""
        iterator = iter(windows)
        while batch := list(islice(iterator, self.batch_size)):
            audible = [level_dbfs(window.audio) > SILENCE_DBFS for window in batch]
            # All at once: whoever takes the predictions may take his time, and inference mode is not to last as long.
            predicted = iter(self._predict_batch([w for w, heard in zip(batch, audible, strict=True) if heard]))
            for window, heard in zip(batch, audible, strict=True):
                yield next(predicted) if heard else _silent(window)

    @torch.inference_mode()
    def _predict_batch(self, windows: list[Window]) -> list[KeyframePrediction]:
        if not windows:
            return []
        loaded, config = self._loaded, self._loaded.model.config
        images = [window.image for window in windows]
        v = loaded.image_encoder.encode(images)  # (B, image_width)
        a = loaded.audio_encoder.encode([window.audio for window in windows], windows[0].sample_rate)
        logits, ious = loaded.model.candidates(
            sam_images(images, config.sam2.image_size, loaded.device, config.antialias),
            multimodal_images(images, config.beit3.image_size, loaded.device, config.antialias),
            v,
            a,
        )
        best = best_mask(logits, ious)
        scores = ious.amax(dim=-1).clamp(0, 1).tolist()
        masks = [_native(logits, window.image.shape[:2]) for logits, window in zip(best, windows, strict=True)]
        return [
            self._prediction(window, mask, a[index : index + 1], scores[index])
            for index, (window, mask) in enumerate(zip(windows, masks, strict=True))
        ]

    def _prediction(self, window: Window, mask: NDArray[np.bool_], a: Tensor, score: float) -> KeyframePrediction:
        objects = tuple(self._objects(window.image, mask, a, score))
        union = np.logical_or.reduce([o.mask for o in objects]) if objects else np.zeros_like(mask)
        return KeyframePrediction(
            keyframe=window.keyframe,
            image=window.image,
            sounding=bool(objects),
            score=score,
            mask=union,
            objects=objects,
        )

    def _objects(self, image: NDArray[np.uint8], mask: NDArray[np.bool_], a: Tensor, score: float) -> list[Detection]:
        """The mask's parts, each named by what is heard and what is seen in it; parts of one name are one object."""
        parts = _parts(mask)
        namer = self._loaded.namer
        if not parts or namer is None:
            return [Detection(label=None, score=score, mask=part) for part in parts]
        v = self._loaded.image_encoder.encode([_crop(image, part) for part in parts])
        odds = (namer.heard(a) * namer.seen(v)).cpu()  # (parts, labels)
        named: dict[int, NDArray[np.bool_]] = {}
        for part, label in zip(parts, odds.argmax(dim=-1).tolist(), strict=True):
            named[label] = named[label] | part if label in named else part
        return [Detection(label=namer.labels[label], score=score, mask=part) for label, part in named.items()]


def level_dbfs(audio: NDArray[np.float32]) -> float:
    """The RMS level of a window (channels, samples) in decibels relative to full scale; -inf without any sound."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * float(np.log10(power)) if power > 0 else -float("inf")


def _silent(window: Window) -> KeyframePrediction:
    """Nothing can be heard, so nothing sounds; of that the level alone is certain."""
    mask = np.zeros(window.image.shape[:2], np.bool_)
    return KeyframePrediction(
        keyframe=window.keyframe, image=window.image, sounding=False, score=1.0, mask=mask, objects=()
    )


def _native(logits: Tensor, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Logits (h, w) to the mask at native size (H, W); bilinear, as the reference resizes its logits."""
    resized = F.interpolate(logits[None, None].float(), size, mode="bilinear", align_corners=False)
    return np.asarray((resized[0, 0] > 0).cpu().numpy(), np.bool_)


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected parts of a mask that are large enough to be something."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    return [parts == i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= SMALLEST_PART * mask.size]


def _crop(image: NDArray[np.uint8], part: NDArray[np.bool_]) -> NDArray[np.uint8]:
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
        raise ConfigError(f"device {name!r} was asked for, but torch sees no GPU; use --device cpu")
    return device
