"""What is published where: for every preset the files on the model hub that its weights come from.

Names and sizes of the encoders' files and of EVF-SAM's were read off the hub's pages. Of EVF-SAM2 and of AV2T-SAM the
lists of files were not seen: what stands here is expected, after the name under which the authors' training stores a
checkpoint and the number of parameters. Files are found by patterns of their names, and what is there instead is said.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeVar

from av2t_core.errors import Remedy, WeightsError
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

if TYPE_CHECKING:  # it brings torch
    from av2t_core.model.published_weights import Published

Text = TypeVar("Text")
Dataset = Literal["ms3", "s4"]

FEATURES: tuple[Feature, ...] = ("mul", "clap", "clip")
DATASETS: tuple[Dataset, ...] = ("ms3", "s4")
MODEL = "av2t-sam"
"""The kind of the authors' state dicts."""
DEFAULT_DATASET: Dataset = "ms3"  # AVSBench's clips in which several things sound, as in most video


@dataclass(frozen=True, kw_only=True)
class Release:
    """A row of the paper's tables. `start`: EVF-SAM alone, to train one from. `dataset`: None is any."""

    preset: str
    start: bool = False
    feature: Feature = "mul"
    dataset: Dataset | None = None


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the name of one of the authors' checkpoints says of it."""

    feature: Feature
    dataset: Dataset


# {name}_{projector}{_adapter}_{evf}_{dataset}_best.pth; the authors call MS3 both `ms3` and `m3`.
_CHECKPOINT = r"(?:.*[/_])?{feature}{adapter}_{evf}_{dataset}(?:_best)?\.(?:pth|pt|bin|safetensors)"
_ANY = re.compile(
    _CHECKPOINT.format(
        feature="(?P<feature>mul|clap|clip)", adapter="(?:_adapter)?", evf=r"evf_\w+?", dataset="(?P<dataset>s4|ms?3)"
    )
)
_SHARD = re.compile(r".*-\d+-of-(\d+)\.\w+")


def presets() -> list[str]:
    """Those whose weights are published; the embedded ones ship with the package."""
    return [name for name, preset in PRESETS.items() if not preset.embedded]


def model(preset: str, feature: Feature, dataset: Dataset) -> "Published":
    """The authors' checkpoint, which holds the segmenter's weights, too."""
    from av2t_core.model.published_weights import Published

    chosen = PRESETS[preset]
    used = segmenter(chosen.segmenter)
    named = {
        "feature": feature,
        "adapter": "_adapter" if chosen.adapter else "",
        "evf": used.checkpoint,
        "dataset": dataset,
    }
    return Published(
        kind=MODEL,
        what="AV2T-SAM",
        part=start(preset).part,
        repository="Kyungbok/AV2T-SAM",
        names=(_CHECKPOINT.format(**{**named, "dataset": "ms?3" if dataset == "ms3" else dataset}),),
        example="…_{feature}{adapter}_{evf}_{dataset}_best.pth".format(**named),
        marks=("projector.",),
    )


def is_known(preset: str) -> bool:
    """Whether a trained model of it was published, as far as is known."""
    return PRESETS[preset].gigabytes > 0


def start(preset: str) -> "Published":
    """The segmenter alone, to which training adds the rest."""
    published = segmenter(PRESETS[preset].segmenter).published
    assert published is not None, f"nothing is published of {preset}"
    return published


def encoders(preset: str) -> "dict[str, Published]":
    """Of what stands in front of the model, by kind: the image encoder, then the audio encoder."""
    chosen = PRESETS[preset]
    found = (image_encoder(chosen.image_encoder).published, audio_encoder(chosen.audio_encoder).published)
    return {published.kind: published for published in found if published is not None}


def gigabytes(preset: str, *, only_start: bool = False) -> float:
    """To fetch for a model of this preset, or its start, where none of its parts is there yet."""
    chosen = PRESETS[preset]
    main = SEGMENTERS[chosen.segmenter].gigabytes if only_start else chosen.gigabytes
    return main + IMAGE_ENCODERS[chosen.image_encoder].gigabytes + AUDIO_ENCODERS[chosen.audio_encoder].gigabytes


def version_name(preset: str, feature: Feature, dataset: Dataset) -> str:
    """sam2-l-ms3, sam2-l-clap-s4."""
    return "-".join([preset, *([feature] if feature != "mul" else []), dataset])


def start_name(preset: str) -> str:
    return f"{preset}-start"


def release(name: str) -> Release | None:
    """What a preset's or a version's name stands for among what is published or can be trained; None: nothing."""
    for preset in presets():
        if name in {preset, start_name(preset)}:
            return Release(preset=preset, start=name != preset)
        for feature, dataset in product(FEATURES, DATASETS):
            if name == version_name(preset, feature, dataset):
                return Release(preset=preset, feature=feature, dataset=dataset)
    return None


def named(file: str) -> Named | None:
    """What a checkpoint's name says, if it is of the authors' form."""
    found = _ANY.fullmatch(file)
    if found is None:
        return None
    feature: Feature = found["feature"]  # type: ignore[assignment]
    return Named(feature=feature, dataset="s4" if found["dataset"] == "s4" else "ms3")


def agreed(option: str, asked: Text | None, said: Text | None) -> Text | None:
    """What a person asked for, else what the checkpoint's name says. WeightsError if the two differ."""
    if asked and said and asked != said:
        raise WeightsError(f"{option} {asked} contradicts the checkpoint's name, which says {said}; leave it out")
    return asked or said


def find(wanted: "Published", names: Sequence[str]) -> list[str]:
    """Of a repository's files the ones that are wanted. WeightsError: there are none, or several rivals."""
    for pattern in wanted.names:
        found = sorted(name for name in names if re.fullmatch(pattern, name))
        if not found:
            continue
        shard = _SHARD.fullmatch(found[0])
        if len(found) > 1 and shard is None:
            raise WeightsError(
                f"{wanted.repository} holds several files for {wanted.what}: {', '.join(found)}", Remedy.CHOOSE_FILE
            )
        if shard is not None and len(found) != int(shard[1]):
            raise WeightsError(
                f"{wanted.repository} holds {len(found)} of the {int(shard[1])} files of {wanted.what}, which are"
                f" needed together; see {wanted.page}"
            )
        return found
    held = ", ".join(sorted(names)) or "nothing"
    raise WeightsError(
        f"{wanted.repository} holds no file named like {wanted.example}; it holds {held}",
        Remedy.FILE_OR_IMPORT,
        what=wanted.what,
        page=wanted.page,
    )
