"""The authors' state dicts, key for key (model hub: Kyungbok/AV2T-SAM): their names for our modules."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from av2t_core.errors import misfit
from av2t_core.model.av2t_sam import AV2TSam

# (theirs, ours): the first prefix that fits; the rest of the key is the same on both sides.
PREFIXES = (
    ("model.visual_model.", "segmenter.sam."),
    ("model.mm_extractor.beit3.", "segmenter.multimodal."),
    ("model.text_hidden_fcs.0.", "segmenter.to_prompt."),
    ("projector.", "projector."),
    ("audio_prompt_generator.shared_mlp.", "adapters.shared."),
    ("audio_prompt_generator.lightweight_mlp_", "adapters.blocks."),
)
# The authors' copy of SAM2 calls this `weight`, the published package `gamma`.
FUSER = re.compile(r"(memory_encoder\.fuser\.layers\.\d+)\.(weight|gamma)$")
# What the checkpoints hold and AV2T-SAM never reads, so that a model may leave it out: BEiT-3's word table, and all
# that only SAM2's memory of earlier frames needs.
UNREAD = re.compile(
    r"segmenter\.multimodal\.text_embed\."
    r"|segmenter\.sam\.(memory_|maskmem_|mask_downsample\.|no_mem_pos_enc$|no_obj_|obj_ptr_)"
)


def load_reference_state_dict(model: AV2TSam, state: Mapping[str, Tensor]) -> None:
    """Loads the authors' weights strictly. WeightsError names every key that is missing, extra or of another shape.

    A model on the meta device takes the tensors themselves, any other one copies them.
    """
    empty = any(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict(from_reference(model, state), assign=empty)


def from_reference(model: AV2TSam, state: Mapping[str, Tensor], absent: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The authors' weights under the names of this model, which may be on the meta device.

    Left out is only what is UNREAD and what this model was built without. `absent`: prefixes of our names that the
    weights lack as a whole, as EVF-SAM's own lack the projector. WeightsError as for `load_reference_state_dict`.
    """
    own = model.state_dict()
    renamed = {_ours(key): tensor for key, tensor in state.items()}
    problems = [f"missing {_theirs(key)}" for key in own if key not in renamed and not key.startswith(absent or "\0")]
    for key, tensor in list(renamed.items()):
        if key not in own:
            if UNREAD.match(key):
                del renamed[key]
            else:
                problems.append(f"unknown {_theirs(key)}")
        elif own[key].shape != tensor.shape:
            problems.append(f"{_theirs(key)} is {tuple(tensor.shape)}, the model has {tuple(own[key].shape)}")
    if problems:
        raise misfit("model", problems)
    return renamed


def to_reference_state_dict(model: AV2TSam) -> dict[str, Tensor]:
    """The model's weights under the authors' names; all of theirs if it is of a `complete()` config."""
    return {_theirs(key): tensor for key, tensor in model.state_dict().items()}


def _ours(key: str) -> str:
    return _renamed(FUSER.sub(r"\1.gamma", key), PREFIXES)


def _theirs(key: str) -> str:
    return _renamed(FUSER.sub(r"\1.weight", key), [(ours, theirs) for theirs, ours in PREFIXES])


def _renamed(key: str, prefixes: Iterable[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
