"""Weights of a model version to disk and back: safetensors in half precision, verified by hash."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from av2t_core.encoders import AudioEncoder, ImageEncoder
from av2t_core.encoders.tiny import TinyAudioEncoder, TinyEncodersConfig, TinyImageEncoder, TinyNamer
from av2t_core.errors import WeightsError
from av2t_core.model import AV2TSam
from av2t_core.presets import PRESETS
from av2t_core.versions import Version

PARTS = ("model", "image_encoder", "audio_encoder")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with its encoders, on one device, ready to predict."""

    model: AV2TSam
    image_encoder: ImageEncoder
    audio_encoder: AudioEncoder
    namer: TinyNamer | None
    device: torch.device


def load_version(version: Version, device: torch.device) -> Loaded:
    """WeightsError if the file is not the one that the card speaks of, or does not fit its preset."""
    card = version.card
    if card["preset"] not in PRESETS:
        raise WeightsError(
            f"model version {version.name} is of the preset {card['preset']!r}, which this release does not know;"
            f" it knows {', '.join(PRESETS)}"
        )
    if not version.weights.is_file():
        raise WeightsError(f"{version.weights} is missing; install the package again")
    if file_hash(version.weights) != card["sha256"]:
        raise WeightsError(f"{version.weights} is damaged: its sha256 is not the one on its card; get it again")
    tensors = load_file(version.weights)
    parts = {
        prefix: {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
        for prefix in PARTS
    }
    try:
        return assemble(card["preset"], card["labels"], parts, device)
    except RuntimeError as error:
        raise WeightsError(f"{version.weights} does not fit the preset {card['preset']!r}: {error}") from error


def assemble(
    preset: str, labels: Sequence[str], parts: Mapping[str, Mapping[str, Tensor]], device: torch.device
) -> Loaded:
    """A frozen model from the state dicts of its PARTS. RuntimeError where one does not fit."""
    encoders = TinyEncodersConfig(labels=tuple(labels))
    model, image, audio = AV2TSam(PRESETS[preset]), TinyImageEncoder(encoders), TinyAudioEncoder(encoders)
    for name, module in zip(PARTS, (model, image, audio), strict=True):
        module.load_state_dict(parts[name])
        module.to(device).eval().requires_grad_(False)
    return Loaded(model=model, image_encoder=image, audio_encoder=audio, namer=TinyNamer(image, audio), device=device)


def save_version(directory: Path, card: dict[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """`parts`: the state dicts of PARTS. The directory must not exist."""
    if directory.exists():
        raise WeightsError(f"{directory} exists; a model version is never changed, choose another name")
    aside = directory.with_name(directory.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {
        f"{prefix}.{key}": (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for prefix, state in parts.items()
        for key, tensor in state.items()
    }
    weights = aside / "weights.safetensors"
    save_file(tensors, weights)
    weights.chmod(0o644)  # whoever may read the package may read its weights
    card = {**card, "sha256": file_hash(weights)}
    (aside / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    aside.rename(directory)


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
