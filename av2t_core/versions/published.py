"""What is published where: for every preset the files on the model hub that its weights come from.

Names and sizes of the encoders' files and of EVF-SAM's were read off the hub's pages. Of EVF-SAM2 and of AV2T-SAM the
lists of files were not seen: what stands here is expected, after the name under which the authors' training stores a
checkpoint and the number of parameters. Files are found by patterns of their names, and what is there instead is said.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

from av2t_core.errors import Remedy, WeightsError
from av2t_core.model.config import Feature, Sam2Config
from av2t_core.model.presets import PRESETS, Preset

Text = TypeVar("Text")
Dataset = Literal["ms3", "s4"]
Sam = Literal["sam1", "sam2"]

FEATURES: tuple[Feature, ...] = ("mul", "clap", "clip")
DATASETS: tuple[Dataset, ...] = ("ms3", "s4")
DEFAULT_DATASET: Dataset = "ms3"  # AVSBench's clips in which several things sound, as in most video


@dataclass(frozen=True, kw_only=True)
class Published:
    """One set of weights. `names`: patterns of its files' names, the best first; all that match one pattern are the
    shards of one state dict if they are numbered, else rivals."""

    what: str
    part: str  # what its frozen tensors are called among the model versions' parts
    repository: str
    names: tuple[str, ...]
    example: str
    gigabytes: float
    beside: tuple["Published", ...] = ()  # what goes into the same part from other repositories

    @property
    def sources(self) -> "tuple[Published, ...]":
        """It, and what goes with it."""
        return self, *self.beside

    @property
    def where(self) -> str:
        """For a person who has to find it: the files' names, and their repositories."""
        return " and ".join(f"{each.example} of {each.repository}" for each in self.sources)

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repository}"


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
    adapter: bool
    sam: Sam
    dataset: Dataset


# {name}_{projector}{_adapter}_{evf}_{dataset}_best.pth; the authors call MS3 both `ms3` and `m3`.
_CHECKPOINT = r"(?:.*[/_])?{feature}{adapter}_{evf}_{dataset}(?:_best)?\.(?:pth|pt|bin|safetensors)"
_ANY = re.compile(
    _CHECKPOINT.format(
        feature="(?P<feature>mul|clap|clip)",
        adapter="(?P<adapter>_adapter)?",
        evf="(?P<evf>evf_sam2?)",
        dataset="(?P<dataset>s4|ms?3)",
    )
)
_OF_TRANSFORMERS = (
    r"model\.safetensors",
    r"model-\d+-of-\d+\.safetensors",
    r"pytorch_model\.bin",
    r"pytorch_model-\d+-of-\d+\.bin",
)
_SHARD = re.compile(r".*-\d+-of-(\d+)\.\w+")
# Without its captions' half the part was called ms-clap-2023, and such a one is not to be taken for it.
_MS_CLAP = "ms-clap-2023-captions"

ENCODERS = {
    # The repository that open_clip itself names for OpenAI's weights of ViT-B-32-quickgelu.
    "clip": Published(
        what="CLIP",
        part="clip-vit-b-32",
        repository="timm/vit_base_patch32_clip_224.openai",
        names=(r"open_clip_model\.safetensors", r"open_clip_pytorch_model\.bin"),
        example="open_clip_model.safetensors",
        gigabytes=0.6,
    ),
    "ms-clap": Published(
        what="MS-CLAP",
        part=_MS_CLAP,
        repository="microsoft/msclap",
        names=(r"CLAP_weights_2023\.pth",),
        example="CLAP_weights_2023.pth",
        gigabytes=0.7,
        beside=(
            Published(
                what="GPT-2's merges, by which it reads",
                part=_MS_CLAP,
                repository="openai-community/gpt2",
                names=(r"merges\.txt",),
                example="merges.txt",
                gigabytes=0.0005,
            ),
        ),
    ),
    # HTSAT-tiny without fusion; the music checkpoints are of a larger HTSAT.
    "laion-clap": Published(
        what="LAION-CLAP",
        part="laion-clap",
        repository="lukewys/laion_clap",
        names=(r"630k-audioset-best\.pt", r"630k-best\.pt"),
        example="630k-audioset-best.pt",
        gigabytes=1.9,
    ),
}
_STARTS: dict[Sam, Published] = {
    "sam2": Published(
        what="EVF-SAM2",
        part="evf-sam2",
        repository="YxZhang/evf-sam2-multitask",
        names=_OF_TRANSFORMERS,
        example="model.safetensors",
        gigabytes=3.6,  # if it is in fp32
    ),
    "sam1": Published(
        what="EVF-SAM",
        part="evf-sam1",
        repository="YxZhang/evf-sam-multitask",
        names=_OF_TRANSFORMERS,
        example="model.safetensors",
        gigabytes=2.6,
    ),
}
_EVF: dict[Sam, str] = {"sam1": "evf_sam", "sam2": "evf_sam2"}
_GIGABYTES: dict[Sam, float] = {"sam1": 5.3, "sam2": 3.7}  # the parameters in fp32


def presets() -> list[str]:
    """Those whose weights are published; `tiny` ships with the package."""
    return [name for name, preset in PRESETS.items() if preset.image_encoder in ENCODERS]


def sam_of(preset: Preset) -> Sam:
    return "sam2" if isinstance(preset.model.sam, Sam2Config) else "sam1"


def model(preset: str, feature: Feature, dataset: Dataset) -> Published:
    """The authors' checkpoint, which holds EVF-SAM's weights, too."""
    chosen = PRESETS[preset]
    named = {
        "feature": feature,
        "adapter": "_adapter" if chosen.model.adapter else "",
        "evf": _EVF[sam_of(chosen)],
        "dataset": dataset,
    }
    return Published(
        what="AV2T-SAM",
        part=start(preset).part,
        repository="Kyungbok/AV2T-SAM",
        names=(_CHECKPOINT.format(**{**named, "dataset": "ms?3" if dataset == "ms3" else dataset}),),
        example="…_{feature}{adapter}_{evf}_{dataset}_best.pth".format(**named),
        gigabytes=_GIGABYTES[sam_of(chosen)],
    )


def is_known(preset: str) -> bool:
    """Whether a trained model of it was published, as far as is known: the authors' hear with MS-CLAP."""
    return PRESETS[preset].audio_encoder == "ms-clap"


def start(preset: str) -> Published:
    """EVF-SAM alone, to which training adds the rest."""
    return _STARTS[sam_of(PRESETS[preset])]


def encoders(preset: str) -> list[str]:
    """The keys in ENCODERS of what stands in front of the model."""
    return [PRESETS[preset].image_encoder, PRESETS[preset].audio_encoder]


def gigabytes(preset: str, *, only_start: bool = False) -> float:
    """To fetch for a model of this preset, or its start, where none of its parts is there yet."""
    main = start(preset).gigabytes if only_start else _GIGABYTES[sam_of(PRESETS[preset])]
    return main + sum(each.gigabytes for encoder in encoders(preset) for each in ENCODERS[encoder].sources)


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
    return Named(
        feature=feature,
        adapter=found["adapter"] is not None,
        sam="sam2" if found["evf"] == _EVF["sam2"] else "sam1",
        dataset="s4" if found["dataset"] == "s4" else "ms3",
    )


def agreed(option: str, asked: Text | None, said: Text | None) -> Text | None:
    """What a person asked for, else what the checkpoint's name says. WeightsError if the two differ."""
    if asked and said and asked != said:
        raise WeightsError(f"{option} {asked} contradicts the checkpoint's name, which says {said}; leave it out")
    return asked or said


def find(wanted: Published, names: Sequence[str]) -> list[str]:
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
