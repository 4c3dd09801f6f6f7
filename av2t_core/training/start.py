"""What a training starts from, and the model version that it ends as.

It starts from a version of the same segmenter and encoders: EVF-SAM for the paper's presets, the embedded model for
`tiny`. The projector and the adapters are drawn anew, whether that version has them or not: they are what the paper
trains from nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from av2t_core.files import writing
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import Feature
from av2t_core.model.trained import is_trained
from av2t_core.versions.checkpoint import (
    Loaded,
    Precision,
    build,
    fill_version,
    read_tensors,
    save_part,
    save_version,
)
from av2t_core.versions.store import fetch
from av2t_core.versions.version import Version

_DRAWN = ("projector.", "adapters.")


def load_start(
    version: Version, preset: str, feature: Feature, seed: int, device: torch.device, precision: Precision
) -> Loaded:
    """The model as it begins, from `resolve_start`'s version; `seed` draws the projector and the adapters.

    WeightsError as for `load_version`.
    """
    fetch(version)
    version.verify()
    empty = build(preset, feature, version.card["labels"])
    taken = (
        (key, tensor)
        for path, _ in version.files
        for key, tensor in read_tensors(path, device)
        if not key.removeprefix("model.").startswith(_DRAWN)
    )
    return fill_version(version, empty, chain(taken, _draw(empty.model, seed)), device, precision)


def keep_trained(
    models_dir: Path,
    name: str,
    start: Version,
    card: Mapping[str, Any],
    trained: Mapping[str, Tensor],
    beside: Sequence[Path] = (),
) -> None:
    """A model version of what was trained, by the names of `is_trained`, over what was not. WeightsError: it exists."""
    parts = list(start.card.get("parts", ())) if start.directory.parent == models_dir else []
    shared = {part["file"] for part in parts}
    frozen = {
        key: tensor
        for path, _ in start.files
        if path.name not in shared
        for key, tensor in read_tensors(path, torch.device("cpu"))
        if not is_trained(key.removeprefix("model."))
    }
    with writing(models_dir):
        if frozen:
            parts.append(save_part(models_dir, start.name, frozen))
        save_version(
            models_dir / name,
            {**card, "labels": start.card["labels"], "parent": start.name, "parts": parts},
            {f"model.{key}": tensor for key, tensor in trained.items()},
            beside,
        )


def _draw(model: AV2TSam, seed: int) -> Iterator[tuple[str, Tensor]]:
    """New weights for what a start lacks; `model` may be on the meta device, and stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in (("projector", model.projector), ("adapters", model.adapters)):
            if module is not None:
                drawn = deepcopy(module).to_empty(device="cpu")
                drawn.reset_parameters()
                for key, tensor in drawn.state_dict().items():
                    yield f"model.{name}.{key}", tensor
