"""The named models, and the parts that they are made of: one line for each encoder, segmenter and preset.

Nothing here imports a part before it is used, for their packages take seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from av2t_core.errors import WeightsError
from av2t_core.model.config import AV2TSamConfig, Feature

if TYPE_CHECKING:
    from av2t_core.encoders import EncoderClass
    from av2t_core.segmenters import SegmenterClass


@dataclass(frozen=True)
class Part:
    """Where the class of a part stands, how large its published weights are, and what a segmenter's are called."""

    place: str
    gigabytes: float = 0
    what: str = ""


IMAGE_ENCODERS = {
    "tiny": Part("av2t_core.encoders.tiny:TinyImageEncoder"),
    "clip": Part("av2t_core.encoders.openai_clip:ClipImageEncoder", 0.6),
    "efficientnet-lite0": Part("av2t_core.encoders.imagenet:ImageNetEncoder"),
}
AUDIO_ENCODERS = {
    "tiny": Part("av2t_core.encoders.tiny:TinyAudioEncoder"),
    "ms-clap": Part("av2t_core.encoders.ms_clap:MsClapAudioEncoder", 0.7),
    "laion-clap": Part("av2t_core.encoders.laion_clap:LaionClapAudioEncoder", 1.9),
    "yamnet": Part("av2t_core.encoders.yamnet:YamNetAudioEncoder"),
}
SEGMENTERS = {
    "evf-sam2": Part("av2t_core.segmenters.evf_sam2:EvfSam2", 3.6, "EVF-SAM2"),  # if it is in fp32
    "evf-sam1": Part("av2t_core.segmenters.evf_sam1:EvfSam1", 2.6, "EVF-SAM"),
    "mobile-sam": Part("av2t_core.segmenters.mobile_sam:MobileSam"),
}
FINDERS = {
    "things": Part("av2t_core.words.finder:SoundingThings"),
}


def image_encoder(name: str) -> "EncoderClass":
    """WeightsError: there is none of this name."""
    return _class("image encoder", IMAGE_ENCODERS, name)  # type: ignore[no-any-return]


def audio_encoder(name: str) -> "EncoderClass":
    """WeightsError: there is none of this name."""
    return _class("audio encoder", AUDIO_ENCODERS, name)  # type: ignore[no-any-return]


def segmenter(name: str) -> "SegmenterClass":
    """WeightsError: there is none of this name."""
    return _class("segmenter", SEGMENTERS, name)  # type: ignore[no-any-return]


def finder_class(name: str) -> Any:
    """WeightsError: there is none of this name."""
    return _class("finder", FINDERS, name)


def _class(what: str, known: Mapping[str, Part], name: str) -> Any:
    if name not in known:
        raise WeightsError(f"there is no {what} {name!r}; there are {', '.join(known)}")
    module, _, attribute = known[name].place.partition(":")
    return getattr(import_module(module), attribute)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The parts of a model by their names, and what AV2T-SAM itself is between them.

    `size`: of the segmenter, see its `sizes`. `gains_by_bf16`: its matrices are so large that to compute in bfloat16 is
    faster, where a device can. `epochs`: of a fine-tuning at most, where nobody says how many; with none, names alone
    are learned. `finder`: what finds things by their names, before AV2T-SAM has learnt any; "" for none. `embedded`:
    its weights are this project's, and not published. `for_tests`: they lie in its repository alone; others ship with
    the package. `gigabytes`: of the authors' trained checkpoint; 0 where none is known to be published, as of those
    that hear with LAION-CLAP.
    """

    segmenter: str = "evf-sam2"
    size: str = "large"
    image_encoder: str = "clip"
    audio_encoder: str = "ms-clap"
    finder: str = ""
    adapter: bool = True
    feature_width: int = 512
    adapter_width: int = 512
    mask_reach: float | None = None
    gains_by_bf16: bool = True
    epochs: int = 20
    embedded: bool = False
    for_tests: bool = False
    gigabytes: float = 0

    def config(self, feature: Feature = "mul") -> AV2TSamConfig:
        """Imports its parts. WeightsError: one of them is not known."""
        return AV2TSamConfig(
            segmenter=segmenter(self.segmenter).sizes[self.size],
            feature=feature,
            adapter=self.adapter,
            audio_width=audio_encoder(self.audio_encoder).width,
            image_width=image_encoder(self.image_encoder).width,
            feature_width=self.feature_width,
            adapter_width=self.adapter_width,
            mask_reach=self.mask_reach,
        )


NO_ADAPTER = "-noadapter"
"""What ends the name of a preset that is another one without adapters."""


def _tiny(adapter: bool) -> Preset:
    """What the tests run: the paper's modules at sizes that are quick on a CPU, trained by this project alone."""
    return Preset(
        size="tiny",
        image_encoder="tiny",
        audio_encoder="tiny",
        adapter=adapter,
        feature_width=256,
        adapter_width=64,
        mask_reach=3.0,
        gains_by_bf16=False,
        embedded=True,
        for_tests=True,
    )


PRESETS = {
    # The default: parts that know the real world, joined by names; for a laptop's CPU.
    "small": Preset(
        segmenter="mobile-sam",
        size="small",
        image_encoder="efficientnet-lite0",
        audio_encoder="yamnet",
        finder="things",
        epochs=0,  # three took a quarter of an hour, and masks were no better than by names alone (docs/results.md)
        feature_width=256,
        adapter_width=64,
        embedded=True,
    ),
    "tiny": _tiny(adapter=True),
    "tiny-noadapter": _tiny(adapter=False),
    # The paper's: Table 1 has both with and without adapters; Table 2's features are the config's `feature`.
    "sam2-l": Preset(gigabytes=3.7),
    "sam2-l-noadapter": Preset(adapter=False, gigabytes=3.7),
    "sam2-l-laion": Preset(audio_encoder="laion-clap"),
    "sam1-h": Preset(segmenter="evf-sam1", gigabytes=5.3),
    "sam1-h-noadapter": Preset(segmenter="evf-sam1", adapter=False, gigabytes=5.3),
}


def check_preset(name: str) -> str:
    """The name; WeightsError: there is no such preset."""
    if name not in PRESETS:
        raise WeightsError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return name
