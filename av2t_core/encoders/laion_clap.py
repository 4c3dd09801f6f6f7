"""LAION-CLAP's audio half (arXiv 2211.06687): a log-mel front end, HTSAT-tiny, a projection."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders import htsat
from av2t_core.encoders.melspectrogram import log_mel, mono
from av2t_core.encoders.state import Source, translate
from av2t_core.media.sound import Sound
from av2t_core.model.empty import empty_weights

SAMPLE_RATE = 48_000
SECONDS = 10  # what the model hears at once; a second is repeated until they are full
WIDTH = 512

_TOWER = "audio_branch."
_UNREAD = re.compile(
    rf"text_|audio_transform\.|logit_scale_[at]$|(?:token_embedding|ln_final)\.|positional_embedding$"
    rf"|{re.escape(_TOWER)}{htsat.UNREAD}"
)


class LaionClapAudioEncoder(nn.Module):
    """See `av2t_core.encoders.AudioEncoder`. Its weights are random; `from_checkpoint` gives the published ones.

    The text's half is left out, so that it is no Reader: behind it things are named by what is seen alone.
    """

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.htsat = htsat.Htsat()
        self.audio_projection = nn.Sequential(nn.Linear(htsat.WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.eval()

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        device = next(self.parameters()).device
        seconds = torch.from_numpy(np.stack([mono(sound, SAMPLE_RATE) for sound in sounds])).to(device)
        heard = self.htsat(htsat.picture(decibels(seconds.repeat(1, SECONDS))))
        return F.normalize(self.audio_projection(heard), dim=-1)


def decibels(samples: Tensor) -> Tensor:
    """(B, N) at SAMPLE_RATE to (B, 64, 1 + N / 480)."""
    return log_mel(samples, sample_rate=SAMPLE_RATE, n_fft=1024, hop=480, mels=htsat.MELS, low=50, high=14_000)


def from_checkpoint(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of one of LAION's HTSAT-tiny checkpoints to that of `LaionClapAudioEncoder`.

    Its keys may begin with `module.`, as in LAION's files. The text's half, HTSAT's classifier and what follows from
    the architecture is left out. WeightsError names every key that is missing, unknown or of another shape.
    """
    with empty_weights():
        own = LaionClapAudioEncoder().state_dict()
    return translate({key.removeprefix("module."): tensor for key, tensor in state.items()}, own, _source, _UNREAD)


def _source(key: str) -> Source:
    if key.startswith("htsat."):
        source = htsat.source(key.removeprefix("htsat."))
        return Source(_TOWER + source.key, source.part, source.parts)
    return Source(key)
