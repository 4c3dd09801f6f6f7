"""LAION-CLAP's audio half (arXiv 2211.06687): a log-mel front end, HTSAT-tiny, a projection."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders import PublishedEncoder, htsat
from av2t_core.encoders.melspectrogram import log_mel, mono
from av2t_core.media.sound import Sound
from av2t_core.model.published_weights import Published, Source

SAMPLE_RATE = 48_000
SECONDS = 10  # what the model hears at once; a second is repeated until they are full
WIDTH = 512

_TOWER = "audio_branch."


class LaionClapAudioEncoder(PublishedEncoder):
    """See `av2t_core.encoders.AudioEncoder` and `av2t_core.encoders.EncoderClass`.

    The text's half is left out, so that it is no Reader: behind it things are named by what is seen alone.
    """

    width = WIDTH
    # The text's half, HTSAT's classifier, and what follows from the architecture.
    unread = re.compile(
        rf"text_|audio_transform\.|logit_scale_[at]$|(?:token_embedding|ln_final)\.|positional_embedding$"
        rf"|{re.escape(_TOWER)}{htsat.UNREAD}"
    )
    published = Published(
        kind="laion-clap",
        what="LAION-CLAP",
        part="laion-clap",
        repository="lukewys/laion_clap",
        names=(r"630k-audioset-best\.pt", r"630k-best\.pt"),  # without fusion; music's are of a larger HTSAT
        example="630k-audioset-best.pt",
        marks=("audio_branch.", "audio_projection."),
    )

    def __init__(self) -> None:
        super().__init__()
        self.htsat = htsat.Htsat()
        self.audio_projection = nn.Sequential(nn.Linear(htsat.WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.eval()

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().from_checkpoint({key.removeprefix("module."): tensor for key, tensor in state.items()})

    @classmethod
    def source(cls, key: str) -> Source:
        return htsat.source(_TOWER, key)

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        device = next(self.parameters()).device
        seconds = torch.from_numpy(np.stack([mono(sound, SAMPLE_RATE) for sound in sounds])).to(device)
        heard = self.htsat(htsat.picture(decibels(seconds.repeat(1, SECONDS))))
        return F.normalize(self.audio_projection(heard), dim=-1)


def decibels(samples: Tensor) -> Tensor:
    """(B, N) at SAMPLE_RATE to (B, 64, 1 + N / 480)."""
    return log_mel(samples, sample_rate=SAMPLE_RATE, n_fft=1024, hop=480, mels=htsat.MELS, low=50, high=14_000)
