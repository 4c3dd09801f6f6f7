"""The named models: a frozen config each, and the encoders in front of it."""

from dataclasses import dataclass, replace
from typing import Literal

from av2t_core.errors import WeightsError
from av2t_core.model.config import AV2TSamConfig, Beit3Config, Sam1Config, Sam2Config

ImageEncoderName = Literal["tiny", "clip"]
AudioEncoderName = Literal["tiny", "ms-clap", "laion-clap"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """`model.audio_width` and `model.image_width` are the widths of the encoders that are named here.

    `gains_by_bf16`: its matrices are so large that to compute in bfloat16 is faster, where a device can.
    """

    model: AV2TSamConfig
    gains_by_bf16: bool = True
    image_encoder: ImageEncoderName = "clip"
    audio_encoder: AudioEncoderName = "ms-clap"


# The embedded default: the paper's modules at sizes that a laptop's CPU runs, trained by this project alone. In place
# of Hiera is a trunk that has seen ImageNet: composed frames alone do not teach what a thing looks like.
TINY = AV2TSamConfig(
    audio_width=256,
    image_width=256,
    feature_width=256,
    adapter_width=64,
    mask_reach=3.0,
    antialias=True,
    beit3=Beit3Config(image_size=128, width=192, layers=2, heads=6, ffn_width=768, max_text=8),
    sam=Sam2Config(image_size=256, trunk="efficientnet-lite0", width=128),
)
# The paper's: Table 1 has both with and without adapters; Table 2's features are the config's `feature`.
SAM2_L = AV2TSamConfig(sam=Sam2Config())
SAM1_H = AV2TSamConfig(sam=Sam1Config())

NO_ADAPTER = "-noadapter"
"""What ends the name of a preset that is another one without adapters."""

PRESETS = {
    "tiny": Preset(model=TINY, gains_by_bf16=False, image_encoder="tiny", audio_encoder="tiny"),
    "tiny-noadapter": Preset(
        model=replace(TINY, adapter=False), gains_by_bf16=False, image_encoder="tiny", audio_encoder="tiny"
    ),
    "sam2-l": Preset(model=SAM2_L),
    "sam2-l-noadapter": Preset(model=replace(SAM2_L, adapter=False)),
    "sam2-l-laion": Preset(model=replace(SAM2_L, audio_width=512), audio_encoder="laion-clap"),
    "sam1-h": Preset(model=SAM1_H),
    "sam1-h-noadapter": Preset(model=replace(SAM1_H, adapter=False)),
}


def check_preset(name: str) -> str:
    """The name; WeightsError: there is no such preset."""
    if name not in PRESETS:
        raise WeightsError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return name
