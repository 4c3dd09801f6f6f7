"""The authors' state dicts, key for key (model hub: Kyungbok/AV2T-SAM): their names for our modules."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from av2t_core.errors import misfit
from av2t_core.model.av2t_sam import AV2TSam

Names = Iterable[tuple[str, str]]


def from_reference(model: AV2TSam, state: Mapping[str, Tensor], absent: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The authors' weights under the names of this model, which may be on the meta device.

    Left out is only what the segmenter may lack and this model was built without. `absent`: prefixes of our names that
    the weights lack as a whole, as EVF-SAM's own lack the projector.
    WeightsError names every key that is missing, unknown or of another shape.
    """
    own, names = model.state_dict(), _names(model)
    renamed = {_renamed(key, names): tensor for key, tensor in state.items()}
    problems = [
        f"missing {published_name(model, key)}"
        for key in own
        if key not in renamed and not key.startswith(absent or "\0")
    ]
    for key, tensor in list(renamed.items()):
        if key not in own:
            if is_unread(model, key):
                del renamed[key]
            else:
                problems.append(f"unknown {published_name(model, key)}")
        elif own[key].shape != tensor.shape:
            found, wanted = tuple(tensor.shape), tuple(own[key].shape)
            problems.append(f"{published_name(model, key)} is {found}, the model has {wanted}")
    if problems:
        raise misfit("model", problems)
    return renamed


def published_name(model: AV2TSam, key: str) -> str:
    """The authors' name for one of this model's tensors."""
    return _renamed(key, [(ours, theirs) for theirs, ours in _names(model)])


def is_unread(model: AV2TSam, key: str) -> bool:
    """Whether weights may hold a tensor of this name that the model has no use for."""
    pattern = model.segmenter.unread
    return bool(pattern and re.match(rf"segmenter\.(?:{pattern})", key))


def _names(model: AV2TSam) -> list[tuple[str, str]]:
    """(theirs, ours): the first prefix that fits; the rest of the key is the same on both sides."""
    return [
        *((f"model.{theirs}", f"segmenter.{ours}") for theirs, ours in model.segmenter.published_names),
        ("projector.", "projector."),
        ("audio_prompt_generator.shared_mlp.", "adapters.shared."),
        ("audio_prompt_generator.lightweight_mlp_", "adapters.blocks."),
    ]


def _renamed(key: str, prefixes: Names) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
