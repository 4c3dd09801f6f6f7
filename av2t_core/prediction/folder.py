"""A prediction on disk: DIR/prediction.json, DIR/masks/000.png, 001.png, …, DIR/sheet.png and DIR/overlay.mp4.

All of it is written aside, in a hidden folder inside DIR, and moved into place at the end, prediction.json last: an
interrupted run leaves DIR as it was.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict

import numpy as np
from PIL import Image

from av2t_core.errors import AV2TError
from av2t_core.text import utf8

if TYPE_CHECKING:
    from av2t_core.media.clip import ClipInfo
    from av2t_core.prediction.predictor import KeyframePrediction

NAME = "prediction.json"
OVERLAY = "overlay.mp4"
SHEET = "sheet.png"
_MASKS = "masks"
_MASK_NAME = re.compile(r"\d{3,}\.png")


class ObjectRecord(TypedDict):
    number: int  # that of the object, at every keyframe
    label: str | None
    score: float
    box: list[int]  # x, y, w, h in pixels


class KeyframeRecord(TypedDict):
    index: int  # k of its window
    frame: int  # 0-based, presentation order
    time: float  # seconds, the clip's own timestamps
    level: float | None  # of the window's sound, RMS in dBFS; None without any sound
    presence: float | None  # the probability that something in view sounds, if the model version can tell
    sounding: bool
    score: float  # see KeyframePrediction
    mask: str  # path below DIR
    objects: list[ObjectRecord]


class Prediction(TypedDict):
    """The content of prediction.json."""

    video: str
    width: int  # pixels, as displayed
    height: int
    fps: float
    frame_count: int
    duration: float  # seconds
    model_version: str
    names: list[str]  # what alone was looked for; empty: all that the model version knows
    keyframes: list[KeyframeRecord]
    remarks: list[str]


class PredictionWriter:
    """Takes the keyframes of one clip as they come; a context manager. AV2TError: `directory` cannot take them.

    with PredictionWriter(directory) as writer:
        for keyframe in predictor.predict(clip.windows()):
            writer.add(keyframe)
        writer.finish("clip.mp4", clip.info, predictor.model_version)

    Until `finish` all of it waits in `staging`, where OVERLAY and SHEET may be written as well.
    """

    def __init__(self, directory: Path) -> None:
        check_directory(directory)
        self.directory = directory
        self.keyframes: list[KeyframeRecord] = []

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.staging = Path(tempfile.mkdtemp(prefix=".prediction-", dir=self.directory))
        (self.staging / _MASKS).mkdir()
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)

    def add(self, prediction: KeyframePrediction) -> None:
        """Write one mask, (H, W) at native size, as 8-bit grey of 0 and 255."""
        mask, keyframe = f"{_MASKS}/{len(self.keyframes):03d}.png", prediction.keyframe
        Image.fromarray(prediction.mask.astype(np.uint8) * 255).save(self.staging / mask)
        self.keyframes.append(
            KeyframeRecord(
                index=keyframe.index,
                frame=keyframe.frame,
                time=keyframe.time,
                level=round(prediction.level, 1) if isfinite(prediction.level) else None,
                presence=None if prediction.presence is None else round(prediction.presence, 4),
                sounding=prediction.sounding,
                score=float(prediction.score),
                mask=mask,
                objects=[
                    ObjectRecord(number=each.number, label=each.label, score=float(each.score), box=list(each.box))
                    for each in prediction.objects
                ],
            )
        )

    def finish(self, video: str, info: ClipInfo, model_version: str, names: Sequence[str] = ()) -> Prediction:
        """Replace what `directory` held of an earlier prediction by this one."""
        prediction = Prediction(
            video=video,
            width=info.width,
            height=info.height,
            fps=info.fps,
            frame_count=info.frame_count,
            duration=info.duration,
            model_version=model_version,
            names=list(names),
            keyframes=self.keyframes,
            remarks=list(info.remarks),
        )
        (self.staging / NAME).write_text(dumps(prediction) + "\n", encoding="utf-8")
        # Without its prediction.json a folder claims nothing, so that a crash in between is no half prediction.
        for name in (NAME, OVERLAY, SHEET):
            (self.directory / name).unlink(missing_ok=True)
        masks = self.directory / _MASKS
        masks.mkdir(exist_ok=True)
        for stale in masks.iterdir():
            if _MASK_NAME.fullmatch(stale.name):
                stale.unlink()
        for mask in (self.staging / _MASKS).iterdir():
            mask.replace(masks / mask.name)
        for name in (OVERLAY, SHEET, NAME):
            if (made := self.staging / name).exists():
                made.replace(self.directory / name)
        return prediction


def dumps(prediction: Prediction) -> str:
    return utf8(json.dumps(prediction, indent=2, ensure_ascii=False, allow_nan=False))


def check_directory(directory: Path) -> Prediction | None:
    """Say now, not after minutes of computing, why `directory` cannot take a prediction; AV2TError.

    Returns the prediction that it holds already and that a new one replaces, None if it holds none.
    """
    if directory.exists() and not directory.is_dir():
        raise AV2TError(f"{directory}: is a file; name a folder for the prediction")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise AV2TError(f"{directory}: cannot be written ({error.strerror}); choose another folder") from None
    masks = directory / _MASKS
    if masks.exists() and not masks.is_dir():
        raise AV2TError(f"{masks}: is a file where the masks' folder belongs; choose another folder")
    try:
        held: Prediction = json.loads((directory / NAME).read_text(encoding="utf-8"))
        _ = held["video"], held["keyframes"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise AV2TError(f"{directory / NAME}: is no prediction and is kept; choose another folder") from None
    return held
