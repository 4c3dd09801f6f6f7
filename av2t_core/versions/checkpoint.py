"""Weights of a model version to disk and back: safetensors, verified by hash, mapped where they are used as they lie.

A version's tensors are those of the parent that it loads onto, if it does, those of its parts, which several versions
share, and its own; the later ones go over the earlier ones:

    model.<name in AV2TSam>    image_encoder.<name>    audio_encoder.<name>    finder.<name>
    names.<name in LearnedNamer>
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import _lru_cache_wrapper, cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from av2t_core.encoders import AudioEncoder, ImageEncoder
from av2t_core.encoders.naming import EncodersNamer, Hearing, LearnedNamer, Namer, NoNames, Reader, ReadNamer, Sight
from av2t_core.errors import MemoryShortError, WeightsError
from av2t_core.files import check_header
from av2t_core.memory import is_out_of_memory
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import Feature
from av2t_core.model.presets import PRESETS, audio_encoder, finder_class, image_encoder
from av2t_core.model.published_weights import NOTHING, Source, empty_weights, translate
from av2t_core.versions.store import fetch
from av2t_core.versions.version import NAMES, Version
from av2t_core.words import Finder

Precision = Literal["fp32", "bf16"]

SCALE = ".scale"
"""What ends the name of a tensor's scale, where that is stored as bytes."""
_NAMERS = 16  # sets of names that stay read, of as many projects
_READ_AT_ONCE = 64  # tensors; what is mapped and then converted stays resident until its file is closed


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A frozen model with its encoders, on one device, ready to predict.

    `precision`: bf16 has the matrices of BEiT-3 and of SAM's image encoder in bfloat16, for use under autocast; all
    else is fp32.
    """

    model: AV2TSam
    image_encoder: ImageEncoder
    audio_encoder: AudioEncoder
    namer: Namer | None
    finder: Finder | None
    device: torch.device
    precision: Precision

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that has weights, by what the names of its tensors begin with."""
        each = {name: getattr(self, name) for name in ("model", "image_encoder", "audio_encoder", "finder")}
        return {name: module for name, module in each.items() if module is not None}

    def namer_for(self, names: Sequence[str]) -> Namer | None:
        """The model's own namer, or one that chooses among `names` if the image encoder can read; None without both.

        The same names are read once, unless many others come between.
        """
        if self.namer is not None or not names or not isinstance(self.image_encoder, Reader):
            return self.namer
        return self._read(tuple(names))

    @cached_property
    def _read(self) -> "_lru_cache_wrapper[ReadNamer]":
        sight, hearing = self.image_encoder, self.audio_encoder
        assert isinstance(sight, Reader)
        return lru_cache(_NAMERS)(
            partial(ReadNamer, sight=sight, hearing=hearing if isinstance(hearing, Reader) else None)
        )


def load_version(version: Version, device: torch.device, precision: Precision = "fp32") -> Loaded:
    """What of it is only in a model store is fetched. WeightsError: a file is missing or not the one that the card
    speaks of, or they do not fit the preset. StoreAwayError, MemoryShortError."""
    card = version.card
    if card.preset not in PRESETS:
        raise WeightsError(
            f"model version {version.name} is of the preset {card.preset!r}, which this release does not know;"
            f" it knows {', '.join(PRESETS)}"
        )
    version.check()
    fetch(version)
    version.verify()
    empty = build(card.preset, card.feature, card.labels)
    pairs = (pair for path, _ in version.files for pair in read_tensors(path, device))
    return fill_version(version, empty, pairs, device, precision)


def fill_version(
    version: Version, empty: Loaded, weights: Iterable[tuple[str, Tensor]], device: torch.device, precision: Precision
) -> Loaded:
    """As `fill`, for the weights of this version. WeightsError: they do not fit. MemoryShortError: nor the device."""
    try:
        return fill(empty, weights, device, precision, version.names)
    except (SafetensorError, WeightsError) as error:
        root = version.chain[-1]
        remedy = root.remedy if root.card.source else "make it again with this one"
        raise WeightsError(
            f"{version.directory} does not fit the preset {version.card.preset!r} of this release: {error}; {remedy}"
        ) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortError(
            f"{version.name} needs more memory than {device} has left; free some, or use a smaller model"
        ) from error


def build(preset: str, feature: Feature = "mul", labels: Sequence[str] = ()) -> Loaded:
    """The modules of a preset, their parameters on the meta device: no memory, no time."""
    described = PRESETS[preset]
    with empty_weights():
        model = AV2TSam(described.config(feature))
        image = image_encoder(described.image_encoder).build(labels)
        audio = audio_encoder(described.audio_encoder).build(labels)
    finder: Finder | None = None
    namer: Namer | None = None
    if described.finder:
        finder = finder_class(described.finder)(hearing=audio, sight=image, segmenter=model.segmenter)
        namer = NoNames(finder.silence)
    elif labels and isinstance(image, Sight) and isinstance(audio, Hearing):
        namer = EncodersNamer(sight=image, hearing=audio)
    return Loaded(
        model=model,
        image_encoder=image,
        audio_encoder=audio,
        namer=namer,
        finder=finder,
        device=torch.device("meta"),
        precision="fp32",
    )


def fill(
    empty: Loaded,
    weights: Iterable[tuple[str, Tensor]],
    device: torch.device,
    precision: Precision,
    names: Sequence[str] = (),
) -> Loaded:
    """The model with these weights, later ones over earlier ones of the same name.

    WeightsError: they do not fit.

    `names`: what it has learnt to call things, beside what it knows of itself.
    """
    narrow = {f"model.{name}" for name in empty.model.matrices()} if precision == "bf16" else set()
    tensors: dict[str, Tensor] = {}
    for key, tensor in weights:
        if tensor.is_floating_point():
            # One tensor that is still mapped would keep all those in memory that were converted beside it.
            beside = bool(narrow) and key.startswith("model.")
            tensor = tensor.to(torch.bfloat16 if key in narrow else torch.float32, copy=beside)
        tensors[key] = tensor
    unread = empty.model.unread(lambda name: f"model.{name}")
    for name, module in empty.modules.items():
        _load(f"{name}.", module, tensors, unread)
        module.to(device).eval().requires_grad_(False)
    filled = replace(empty, device=device, precision=precision)
    if not names:
        return filled
    learnt = {key.removeprefix(NAMES): tensor for key, tensor in tensors.items() if key.startswith(NAMES)}
    return with_names(filled, names, learnt)


def _load(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor], unread: re.Pattern[str] = NOTHING) -> None:
    """Those of `tensors` whose names begin with the prefix. WeightsError names what does not fit."""
    own = {f"{prefix}{key}": tensor for key, tensor in module.state_dict().items()}
    state = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    fitting = translate("model", state, own, Source, unread)
    module.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in fitting.items()}, assign=True)


def with_names(loaded: Loaded, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Loaded:
    """The model that calls things so, beside the names that it knows of itself and in place of others that were learnt.

    `tensors`: LearnedNamer's, on the model's device. WeightsError: they do not fit.
    """
    known = loaded.namer.known if isinstance(loaded.namer, LearnedNamer) else loaded.namer
    if known is None:
        raise WeightsError("its names were learnt beside those of a model that has some")
    with empty_weights():
        namer = LearnedNamer(
            known, names, audio_width=loaded.audio_encoder.width, image_width=loaded.image_encoder.width
        )
    _load(NAMES, namer, {f"{NAMES}{key}": tensor for key, tensor in tensors.items()})
    return replace(loaded, namer=namer.eval().requires_grad_(False))


def randomise(empty: Loaded, device: torch.device, precision: Precision, seed: int = 0) -> Loaded:
    """The model with drawn weights: as fast and as large as the trained one, and its masks mean nothing."""
    generator = torch.Generator(device).manual_seed(seed)
    narrow = set(empty.model.matrices()) if precision == "bf16" else set()
    for name, module in empty.modules.items():
        drawn = {}
        for key, meta in module.named_parameters():
            dtype = torch.bfloat16 if name == "model" and key in narrow else torch.float32
            drawn[key] = tensor = torch.empty(meta.shape, dtype=dtype, device=device)
            if meta.ndim >= 2:
                tensor.normal_(0, meta[0].numel() ** -0.5, generator=generator)
            else:
                tensor.fill_(float(key.endswith("weight")))  # norms do nothing, biases are none
        module.load_state_dict(drawn, assign=True, strict=False)
        module.to(device).eval().requires_grad_(False)
    return replace(empty, device=device, precision=precision)


def read_tensors(path: Path, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """All of a file, by name; on a CPU they are views of the mapped file. WeightsError: it names more than a model.

    What is stored as bytes (C, ...) with a scale (C,) is given as floats.
    """
    check_header(path)
    with safe_open(path, "pt") as file:
        stored = set(file.keys())
    keys = sorted(key for key in stored if not key.endswith(SCALE))
    for first in range(0, len(keys), _READ_AT_ONCE):
        with safe_open(path, "pt", device=str(device)) as file:
            for key in keys[first : first + _READ_AT_ONCE]:
                tensor = file.get_tensor(key)
                if key + SCALE in stored:
                    scale = file.get_tensor(key + SCALE).float()
                    tensor = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
                yield key, tensor
