"""Published checkpoints to this project's: what a state dict is, whether it fits, and its tensors under our names.

A model's tensors are split by `is_trained`, the predicate that says what the paper trains: those are the version's own,
the others a part that versions share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal

from torch import Tensor

from av2t_core.encoders import gpt2
from av2t_core.errors import WeightsError
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import Feature
from av2t_core.model.empty import empty_weights
from av2t_core.model.presets import PRESETS
from av2t_core.model.trained import is_trained
from av2t_core.segmenters.reference import from_reference
from av2t_core.versions import published

ModelKind = Literal["av2t-sam", "evf-sam"]
EncoderKind = Literal["clip", "ms-clap", "laion-clap"]
Kind = ModelKind | EncoderKind | Literal["gpt2-merges"]

# What the names of each kind begin with; all of it must be there. The first that fits.
_MARKS: dict[Kind, tuple[str, ...]] = {
    "av2t-sam": ("projector.", "model.visual_model.", "model.mm_extractor.beit3."),
    "evf-sam": ("visual_model.", "mm_extractor.beit3.", "text_hidden_fcs."),
    "clip": ("visual.conv1.", "visual.transformer."),
    "ms-clap": ("audio_encoder.base.htsat.", "audio_encoder.projection."),
    "laion-clap": ("audio_branch.", "audio_projection."),
    "gpt2-merges": (gpt2.FILE,),  # alone, and not beside MS-CLAP
}
_ENCODERS: dict[EncoderKind, str] = {"clip": "clip", "ms-clap": "ms_clap", "laion-clap": "laion_clap"}
_SAMS = {"sam1": "SAM", "sam2": "SAM2"}


@dataclass(frozen=True, kw_only=True)
class Split:
    """A model's tensors by name, `model.…`: the version's own, and those of the shared part."""

    own: dict[str, Tensor]
    part: dict[str, Tensor]


def kind_of(file: str, state: Mapping[str, Tensor]) -> Kind:
    """What the state dict of `file` is, told from its keys. WeightsError: nothing that is known."""
    for kind, marks in _MARKS.items():
        if all(any(key.startswith(mark) for key in state) for mark in marks):
            return kind
    known = "; ".join(f"{kind} ({', '.join(f'{mark}*' for mark in marks)})" for kind, marks in _MARKS.items())
    first = sorted({".".join(key.split(".")[:2]) for key in state})
    seen = ", ".join(first[:5]) + (", …" if len(first) > 5 else "")
    raise WeightsError(f"{file} is none of the state dicts that are known: {known}; its keys begin with {seen}")


def split_model(file: str, kind: ModelKind, state: Mapping[str, Tensor], preset: str, feature: Feature) -> Split:
    """An AV2T-SAM or EVF-SAM state dict for this preset, no tensor copied. WeightsError where it does not fit."""
    if kind == "evf-sam":
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    _check_fit(file, kind, state, preset)
    with empty_weights():
        model = AV2TSam(replace(PRESETS[preset].model, feature=feature))
    try:
        ours = from_reference(model, state, absent=("projector.", "adapters.") if kind == "evf-sam" else ())
    except WeightsError as error:
        raise WeightsError(f"{file}, for the preset {preset}: {error}") from None
    return Split(
        own={f"model.{key}": tensor for key, tensor in ours.items() if is_trained(key)},
        part={f"model.{key}": tensor for key, tensor in ours.items() if not is_trained(key)},
    )


def encoder_tensors(file: str, kind: EncoderKind, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published encoder's tensors under our names, `image_encoder.…` or `audio_encoder.…`. WeightsError."""
    # Imported when it is chosen, for its packages take seconds.
    encoder = import_module(f"av2t_core.encoders.{_ENCODERS[kind]}")
    try:
        weights: dict[str, Tensor] = encoder.from_checkpoint(state)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from None
    module = "image_encoder" if kind == "clip" else "audio_encoder"
    return {f"{module}.{key}": tensor for key, tensor in weights.items()}


def _check_fit(file: str, kind: ModelKind, state: Mapping[str, Tensor], preset: str) -> None:
    """The differences between published models, told in their own words rather than by keys."""
    config, encoder = PRESETS[preset].model, PRESETS[preset].audio_encoder
    sam = "sam2" if any(key.startswith("model.visual_model.sam_mask_decoder.") for key in state) else "sam1"
    adapter, width = config.adapter, config.audio_width
    if kind == "av2t-sam":
        adapter = any(key.startswith("audio_prompt_generator.") for key in state)
        projection = state.get("projector.audio_proj.weight")
        # A missing key is told with the others that are.
        width = projection.shape[-1] if projection is not None and projection.ndim else width
    reasons = []
    if sam != published.sam_of(PRESETS[preset]):
        reasons.append(f"holds {_SAMS[sam]} and not {_SAMS[published.sam_of(PRESETS[preset])]}")
    if adapter != config.adapter:
        reasons.append("has adapters" if adapter else "has no adapters")
    if width != config.audio_width:
        reasons.append(f"was trained on sound embeddings of {width}, {encoder} gives {config.audio_width}")
    if reasons:
        fitting = _fitting(sam, adapter, width)
        remedy = f"use preset {fitting}" if fitting else "there is no preset for that"
        raise WeightsError(f"{file} does not fit the preset {preset}: it {' and '.join(reasons)}: {remedy}")


def _fitting(sam: str, adapter: bool, width: int) -> str | None:
    return next(
        (
            name
            for name in published.presets()
            if (published.sam_of(PRESETS[name]), PRESETS[name].model.adapter, PRESETS[name].model.audio_width)
            == (sam, adapter, width)
        ),
        None,
    )
