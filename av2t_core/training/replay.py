"""What a model version learnt before: a small fixed set of its own training's frames, kept beside its weights.

    <version>/replay.safetensors    frames (JPEG, at the side of SAM's input), masks (PNG, SIZE x SIZE) and embeddings
                                    of the seconds of sound; the card has its hash

A fine-tuning repeats them, so that old sounds are not forgotten.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from av2t_core.avsbench import FRAMES as CLIP_FRAMES
from av2t_core.checkpoint import Loaded
from av2t_core.compose.cutouts import Cutouts
from av2t_core.errors import WeightsError
from av2t_core.soundtrack import Sound
from av2t_core.training.calibrating import composed
from av2t_core.training.examples import Examples, images_of, shrunk
from av2t_core.versions import Version, file_hash

FILE = "replay.safetensors"
FRAMES = 80
_QUALITY = 70

Frame = tuple[NDArray[np.uint8], Sound, NDArray[np.bool_]]
"""A picture (H, W, 3), its second of sound, and the mask (H, W) of what sounds."""


@torch.inference_mode()
def keep(path: Path, loaded: Loaded, frames: Iterable[Frame]) -> str:
    """Write the set; its sha256, for the card. The sounds are kept as embeddings by this version's audio encoder."""
    side = loaded.model.config.sam.image_size
    tensors, heard = {}, []
    for index, (image, sound, mask) in enumerate(frames):
        small = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        tensors[f"frame.{index:04d}"] = _encoded(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        tensors[f"mask.{index:04d}"] = _encoded(".png", 255 * shrunk(mask), [cv2.IMWRITE_PNG_BILEVEL, 1])
        heard.append(loaded.audio_encoder.encode([sound]))
    save_file(tensors | {"a": torch.cat(heard).half().cpu()}, path)
    path.chmod(0o644)
    return file_hash(path)


def draw(cutouts: Cutouts, count: int = FRAMES, seed: int = 3) -> Iterator[Frame]:
    """Of composed clips, one frame of each, from what is there for training."""
    windows = composed(cutouts.part("train"), count, seed)
    for index, (window, masks) in enumerate(windows):
        if index % CLIP_FRAMES == index // CLIP_FRAMES % CLIP_FRAMES:
            nothing = np.zeros(window.image.shape[:2], np.bool_)
            yield window.image, window.sound, np.logical_or.reduce([nothing, *masks])


def replay_of(version: Version, loaded: Loaded) -> Examples | None:
    """The set of the version, or of what it loads onto; None where there is none. `loaded`: the version, to encode it.

    WeightsError: the file is missing or damaged.
    """
    for each in version.chain:
        if sha256 := each.card.get("replay_sha256"):
            path = each.directory / FILE
            if not path.is_file() or file_hash(path) != sha256:
                raise WeightsError(f"{path} is missing or damaged; {each.remedy}")
            return _read(path, loaded)
    return None


@torch.inference_mode()
def _read(path: Path, loaded: Loaded) -> Examples:
    with safe_open(path, "pt") as file:
        names = sorted(key.removeprefix("frame.") for key in file.keys() if key.startswith("frame."))  # noqa: SIM118
        images = [_decoded(file.get_tensor(f"frame.{name}"), cv2.IMREAD_COLOR)[..., ::-1] for name in names]
        targets = [_decoded(file.get_tensor(f"mask.{name}"), cv2.IMREAD_GRAYSCALE) > 0 for name in names]
        a = file.get_tensor("a").float()
    sam, multimodal, v = images_of(loaded, [np.ascontiguousarray(image) for image in images])
    return Examples(sam=sam, multimodal=multimodal, v=v, a=a, target=torch.from_numpy(np.stack(targets)).byte())


def _encoded(kind: str, image: NDArray[np.uint8], options: list[int]) -> Tensor:
    _, data = cv2.imencode(kind, image, options)
    return torch.from_numpy(data)


def _decoded(data: Tensor, flags: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(data.numpy(), flags), np.uint8)
