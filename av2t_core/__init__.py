"""AV2T-SAM: from a clip to the masks of what sounds in it.

from pathlib import Path

from av2t_core import Clip, Predictor

predictor = Predictor.load("small")
with Clip(Path("clip.mp4")) as clip:
    for seen in predictor.predict_clip(clip.windows()):
        for thing in seen.objects:
            print(f"{seen.keyframe.time:.2f} s: {thing.label}, {thing.mask.sum()} pixels, {thing.score:.0%} sure")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av2t_core.errors import AV2TError
    from av2t_core.media.clip import Clip, Keyframe, Window
    from av2t_core.prediction.objects import Detection
    from av2t_core.prediction.predictor import KeyframePrediction, Predictor

__all__ = ["AV2TError", "Clip", "Detection", "Keyframe", "KeyframePrediction", "Predictor", "Window"]

# Imported when they are asked for: the backend, which starts in a second, asks for none that needs torch.
_ROOMS = {
    "AV2TError": "errors",
    "Clip": "media.clip",
    "Detection": "prediction.objects",
    "Keyframe": "media.clip",
    "KeyframePrediction": "prediction.predictor",
    "Predictor": "prediction.predictor",
    "Window": "media.clip",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
