"""MS-CLAP 2023's audio half (arXiv 2309.05767), which the paper hears with: a log-mel front end, HTSAT, a projection.

The front end is that of the published model to the letter: its filters were computed for 32 kHz and are used at 44.1,
and several channels are heard one after the other.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.empty import empty_weights
from av2t_core.encoders import htsat
from av2t_core.encoders.melspectrogram import log_mel
from av2t_core.encoders.resample import resample_second
from av2t_core.encoders.state import Source, translate
from av2t_core.soundtrack import MARGIN, Sound

SAMPLE_RATE = 44_100
WIDTH = 1024

_TOWER, _PROJECTION = "audio_encoder.base.htsat.", "audio_encoder.projection."
_UNREAD = re.compile(rf"caption_encoder\.|logit_scale$|{re.escape(_TOWER)}{htsat.UNREAD}")


class Projection(nn.Module):
    """HTSAT's embedding (B, 768) to (B, WIDTH): LayerNorm(x W1 + gelu(x W1) W2)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(htsat.WIDTH, WIDTH, bias=False)
        self.linear2 = nn.Linear(WIDTH, WIDTH, bias=False)
        self.layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.linear1(x)
        return self.layer_norm(projected + self.linear2(F.gelu(projected)))  # type: ignore[no-any-return]


class MsClapAudioEncoder(nn.Module):
    """See `av2t_core.encoders.AudioEncoder`. Its weights are random; `from_checkpoint` gives the published ones."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.htsat = htsat.Htsat()
        self.projection = Projection()
        self.eval()

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        device = self.projection.linear1.weight.device
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, sound in enumerate(sounds):
            alike[sound.rate, len(sound.samples)].append(index)
        pictures = torch.empty(len(sounds), 1, htsat.FRAMES, htsat.MELS, device=device)
        for indices in alike.values():
            heard = segments([sounds[index] for index in indices], device)
            pictures[indices] = htsat.picture(decibels(heard))
        return self.projection(self.htsat(pictures))  # type: ignore[no-any-return]


def segments(sounds: Sequence[Sound], device: torch.device) -> Tensor:
    """Sounds of one rate and number of channels to (B, channels * SAMPLE_RATE): a stereo second is left, then right."""
    rate = sounds[0].rate
    if not rate:
        return torch.zeros(len(sounds), SAMPLE_RATE, device=device)
    samples = torch.from_numpy(np.stack([sound.samples for sound in sounds])).to(device)
    seconds = resample_second(samples, rate, SAMPLE_RATE)
    for second, sound in zip(seconds, sounds, strict=True):
        if sound.end is not None:  # the published model pads with zeros what was resampled as a whole
            second[:, max(0, ceil((sound.end - MARGIN) * SAMPLE_RATE / rate)) :] = 0
    return seconds.flatten(1)


def decibels(segments: Tensor) -> Tensor:
    """(B, N) to (B, 64, 1 + N / 320)."""
    return log_mel(segments, sample_rate=32_000, n_fft=1024, hop=320, mels=htsat.MELS, low=50, high=14_000)


def from_checkpoint(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`CLAP_weights_2023.pth`, the dict under "model", to the state dict of `MsClapAudioEncoder`.

    The captions' half, HTSAT's classifier and what follows from the architecture is left out. WeightsError names every
    key that is missing, unknown or of another shape.
    """
    with empty_weights():
        own = MsClapAudioEncoder().state_dict()
    return translate(state, own, _source, _UNREAD)


def _source(key: str) -> Source:
    if key.startswith("htsat."):
        source = htsat.source(key.removeprefix("htsat."))
        return Source(_TOWER + source.key, source.part, source.parts)
    return Source(_PROJECTION + key.removeprefix("projection."))
