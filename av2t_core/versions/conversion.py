"""Published checkpoints to this project's: what a state dict is, whether it fits, and its tensors under our names.

What the paper trains becomes a version's own tensors, all else a part that versions share.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from torch import Tensor

from av2t_core.encoders import EncoderClass
from av2t_core.errors import WeightsError
from av2t_core.model.av2t_sam import DRAWN, AV2TSam
from av2t_core.model.config import Feature
from av2t_core.model.presets import (
    AUDIO_ENCODERS,
    IMAGE_ENCODERS,
    PRESETS,
    SEGMENTERS,
    audio_encoder,
    image_encoder,
    segmenter,
)
from av2t_core.model.published_weights import Published, empty_weights
from av2t_core.versions import published

Tensors = dict[str, Tensor]


def kind_of(file: str, state: Mapping[str, Tensor]) -> str:
    """The `Published.kind` of the state dict of `file`, told from its keys. WeightsError: nothing that is known."""
    starts = [start for _, start in _segmenters()]
    known = [(published.MODEL, ("projector.", *(f"model.{mark}" for mark in start.marks))) for start in starts]
    encoders = (encoder.published.sources for _, encoder in _encoders() if encoder.published)
    known += [(source.kind, source.marks) for source in chain(starts, *encoders)]
    for kind, marks in known:
        if _has(state, marks):
            return kind
    told = "; ".join(f"{kind} ({', '.join(f'{mark}*' for mark in marks)})" for kind, marks in dict(known).items())
    first = sorted({".".join(key.split(".")[:2]) for key in state})
    seen = ", ".join(first[:5]) + (", …" if len(first) > 5 else "")
    raise WeightsError(f"{file} is none of the state dicts that are known: {told}; its keys begin with {seen}")


def is_model(kind: str) -> bool:
    """Whether it is AV2T-SAM or a segmenter, and no encoder."""
    return kind == published.MODEL or kind in {start.kind for _, start in _segmenters()}


def split_model(
    file: str, kind: str, state: Mapping[str, Tensor], preset: str, feature: Feature
) -> tuple[Tensors, Tensors]:
    """The state dict of a model for this preset: a version's own tensors, `model.…`, and those of the shared part.

    No tensor is copied. WeightsError: it does not fit.
    """
    if kind != published.MODEL:
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    _check_fit(file, kind, state, preset)
    with empty_weights():
        model = AV2TSam(PRESETS[preset].config(feature))
    try:
        ours = model.from_checkpoint(state, absent=() if kind == published.MODEL else DRAWN)
    except WeightsError as error:
        raise WeightsError(f"{file}, for the preset {preset}: {error}") from None
    own = {f"model.{key}": tensor for key, tensor in ours.items() if model.is_trained(key)}
    part = {f"model.{key}": tensor for key, tensor in ours.items() if not model.is_trained(key)}
    return own, part


def encoder_tensors(file: str, kind: str, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """What the part of a published encoder is called, and its tensors, `image_encoder.…` or `audio_encoder.…`.

    WeightsError: they do not fit.
    """
    for module, encoder in _encoders():
        if encoder.published and encoder.published.kind == kind:
            try:
                weights = encoder.from_checkpoint(state)
            except WeightsError as error:
                raise WeightsError(f"{file}: {error}") from None
            return encoder.published.part, {f"{module}.{key}": tensor for key, tensor in weights.items()}
    raise WeightsError(f"{file} is {kind}, which is no encoder")


def _has(state: Mapping[str, object], marks: Iterable[str]) -> bool:
    """Each of them at the beginning of a key."""
    return all(any(key.startswith(mark) for key in state) for mark in marks)


def _segmenters() -> Iterator[tuple[str, Published]]:
    for name in SEGMENTERS:
        if start := segmenter(name).published:
            yield name, start


def _encoders() -> Iterator[tuple[str, EncoderClass]]:
    yield from (("image_encoder", image_encoder(name)) for name in IMAGE_ENCODERS)
    yield from (("audio_encoder", audio_encoder(name)) for name in AUDIO_ENCODERS)


def _check_fit(file: str, kind: str, state: Mapping[str, Tensor], preset: str) -> None:
    """The differences between published models, told in their own words rather than by keys."""
    chosen = PRESETS[preset]
    width, wanted_width = (audio_encoder(chosen.audio_encoder).width,) * 2
    [(held, start)] = [each for each in _segmenters() if _has(state, (f"model.{mark}" for mark in each[1].marks))]
    adapter = chosen.adapter
    if kind == published.MODEL:
        adapter = any(key.startswith("audio_prompt_generator.") for key in state)
        projection = state.get("projector.audio_proj.weight")
        # A missing key is told with the others that are.
        width = projection.shape[-1] if projection is not None and projection.ndim else width
    reasons = []
    if held != chosen.segmenter:
        reasons.append(f"holds {start.what} and not {published.start(preset).what}")
    if adapter != chosen.adapter:
        reasons.append("has adapters" if adapter else "has no adapters")
    if width != wanted_width:
        reasons.append(f"was trained on sound embeddings of {width}, {chosen.audio_encoder} gives {wanted_width}")
    if reasons:
        fitting = [
            name
            for name, each in PRESETS.items()
            if not each.embedded
            and (each.segmenter, each.adapter, audio_encoder(each.audio_encoder).width) == (held, adapter, width)
        ]
        remedy = f"use preset {fitting[0]}" if fitting else "there is no preset for that"
        raise WeightsError(f"{file} does not fit the preset {preset}: it {' and '.join(reasons)}: {remedy}")
