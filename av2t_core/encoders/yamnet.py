"""YAMNet, what hears in the preset `small`: a MobileNet (arXiv 1704.04861) that names 521 classes of AudioSet.

Google published it in TensorFlow's model garden under Apache-2.0; its front end is that of VGGish (arXiv 1609.09430).
Its batch norms are folded into the convolutions.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders import EmbeddedEncoder
from av2t_core.encoders.efficientnet import SamePadding
from av2t_core.encoders.melspectrogram import mono
from av2t_core.media.sound import Sound

SAMPLE_RATE = 16_000
CLASSES, WIDTH = 521, 1024
MELS, STEPS = 64, 96  # of a patch
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples
PATCH = _WINDOW + (STEPS - 1) * _HOP
"""Samples that a patch is made of: all of a second but 25 ms. A second holds no two patches that differ by much."""

_SPARE = (SAMPLE_RATE - PATCH) // 2
_LOW, _HIGH = 125.0, 7500.0  # Hz
_FLOOR = 1e-3  # added before the logarithm

# Of each block: stride, channels.
_BLOCKS = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512),) * 5,
    (2, 1024),
    (1, 1024),
)


class Separable(nn.Module):
    """A convolution over places within each channel, and one over the channels at each place."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = SamePadding(channels_in, channels_in, 3, stride, groups=channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.depthwise(x), inplace=True)
        return F.relu(self.pointwise(y), inplace=True)


class YamNetAudioEncoder(EmbeddedEncoder):
    """See `av2t_core.encoders.AudioEncoder` and `.EncoderClass`. The embedding is the mean over the last places."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.first = SamePadding(1, 32, 3, 2)
        widths = (32, *(channels for _, channels in _BLOCKS))
        self.blocks = nn.Sequential(
            *(Separable(before, after, stride) for before, (stride, after) in zip(widths, _BLOCKS, strict=False))
        )
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """(B, STEPS, MELS), from `log_mel`, to (B, width)."""
        # On a CPU convolutions are faster so than in torch's usual order of memory.
        x = patches[:, None].contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.relu(self.first(x), inplace=True))
        return x.mean(dim=(2, 3))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        samples = np.stack([mono(sound, SAMPLE_RATE)[_SPARE : _SPARE + PATCH] for sound in sounds])
        return self(log_mel(torch.from_numpy(samples).to(self.classifier.weight.device)))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def classes(self, a: Tensor) -> Tensor:
        """(B, width) to the probability (B, CLASSES) that each of AudioSet's classes is heard; several may be."""
        return self.classifier(a).sigmoid()  # type: ignore[no-any-return]


def log_mel(samples: Tensor) -> Tensor:
    """(B, PATCH) in -1..1 to (B, STEPS, MELS): the logarithm of magnitudes, not of powers as in `melspectrogram`."""
    window = torch.hann_window(_WINDOW, device=samples.device)
    spectrum = torch.fft.rfft(samples.unfold(-1, _WINDOW, _HOP) * window, _FFT).abs()  # (B, STEPS, _FFT / 2 + 1)
    return (spectrum @ _mel_filters().to(samples.device) + _FLOOR).log()  # type: ignore[no-any-return]


@cache
def _mel_filters() -> Tensor:
    """(_FFT / 2 + 1, MELS) triangles of equal height on HTK's mel scale, straight in mel, not in hertz."""
    bins = _mel(np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(np.array(_LOW)), _mel(np.array(_HIGH)), MELS + 2)
    step = edges[1] - edges[0]
    return torch.from_numpy(np.maximum(0, 1 - np.abs(bins - edges[1:-1]) / step)).float()


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127 * np.log1p(hertz / 700)
