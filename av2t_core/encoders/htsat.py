"""HTSAT (arXiv 2202.00874), the tower of both CLAPs: a Swin transformer over a log-mel spectrogram.

The tower itself is transformers'. MS-CLAP and LAION-CLAP publish theirs under the names of HTSAT's authors.
"""

import re

from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.model.published_weights import Source

MELS = 64
FRAMES = 1024
"""What the picture has in time: four strips of 256, which the tower lays one above the other."""
WIDTH = 768

# HTSAT's authors' names (ours, theirs), each within its block or at the beginning.
_NAMES = (
    (re.compile(r"^batch_norm\."), "bn0."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"\.attention\.self\.relative_position_bias_table$"), ".attn.relative_position_bias_table"),
    (re.compile(r"\.attention\.self\.(query|key|value)\."), ".attn.qkv."),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
)
_QKV = ("query", "key", "value")

# What follows from the architecture (the front end's filters, masks and indices), and the heads for AudioSet's classes.
UNREAD = (
    r"(?:spectrogram_extractor\.|logmel_extractor\.|tscam_conv\.|head\."
    r"|layers\..*\.(?:attn_mask|attn\.relative_position_index)$)"
)


class Htsat(nn.Module):
    """Pictures of sound (B, 1, FRAMES, MELS), decibels, to (B, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.models.clap.configuration_clap import ClapAudioConfig  # its package takes seconds
        from transformers.models.clap.modeling_clap import ClapAudioEncoder

        self.encoder = ClapAudioEncoder(ClapAudioConfig())
        for module in self.encoder.modules():
            if hasattr(module, "relative_position_index"):  # follows from the architecture, so it is no weight
                module.register_buffer("relative_position_index", module.relative_position_index, persistent=False)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.encoder(pictures).pooler_output  # type: ignore[no-any-return]


def picture(decibels: Tensor) -> Tensor:
    """(B, MELS, T) to (B, 1, FRAMES, MELS), stretched in time (bicubic, the first and last frames stay so).

    What is longer than FRAMES, as only a second of eight and more channels is to MS-CLAP, is squeezed.
    """
    return F.interpolate(decibels.mT[:, None], (FRAMES, MELS), mode="bicubic", align_corners=True)


def source(tower: str, key: str) -> Source:
    """Of one of a CLAP's tensors: `tower` is what precedes the authors' names of the HTSAT that we call `htsat`."""
    if not key.startswith("htsat."):
        return Source(key)
    theirs = key.removeprefix("htsat.encoder.")
    for ours, name in _NAMES:
        theirs = ours.sub(name, theirs)
    part = next((index for index, name in enumerate(_QKV) if f".self.{name}." in key), None)
    return Source(tower + theirs) if part is None else Source(tower + theirs, part, len(_QKV))
