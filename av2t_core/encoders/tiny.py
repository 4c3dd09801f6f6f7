"""The embedded encoders of the `tiny` preset: two small convolutional nets that share one table of class prototypes.

They stand where CLIP and CLAP stand in the paper. Since they have no text tower, the prototypes also give the name of
what is heard and of what is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders import EmbeddedEncoder
from av2t_core.encoders.efficientnet import EfficientNetLite
from av2t_core.encoders.melspectrogram import log_mel, mono
from av2t_core.media.sound import Sound
from av2t_core.model.inputs import normalise_sam, stack_frames

SAMPLE_RATE = 16_000
MELS = 64


@dataclass(frozen=True, kw_only=True)
class TinyEncodersConfig:
    labels: tuple[str, ...]
    width: int = 256
    image_size: int = 128
    audio_channels: tuple[int, ...] = (24, 48, 96, 192)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first halves the resolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Trunk(nn.Module):
    """A picture (B, C, H, W) to an embedding (B, width): residual stages, then the mean and the maximum over places."""

    def __init__(self, channels_in: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        steps = [nn.Conv2d(channels_in, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()]
        steps += [Residual(a, b) for a, b in zip((channels[0], *channels[:-1]), channels, strict=True)]
        self.stages = nn.Sequential(*steps)
        self.head = nn.Linear(2 * channels[-1], width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stages(x)
        return self.head(torch.cat([y.mean(dim=(2, 3)), y.amax(dim=(2, 3))], dim=1))  # type: ignore[no-any-return]


class Prototypes(nn.Module):
    """One fixed unit vector for each label and a last one for silence; cosines become log-odds by a learned line.

    Both encoders hold the same vectors, drawn from one seed, so that sound and sight of a thing point the same way
    although the two never train together.
    """

    vectors: Tensor

    def __init__(self, labels: Sequence[str], width: int) -> None:
        super().__init__()
        self.labels = tuple(labels)
        drawn = torch.randn(len(labels) + 1, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("vectors", F.normalize(drawn, dim=-1))
        self.slope = nn.Parameter(torch.tensor(2.5))  # log of the slope
        self.offset = nn.Parameter(torch.tensor(-4.0))

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, width) to log-odds (B, labels + 1)."""
        cosine = F.normalize(embedding, dim=-1) @ self.vectors.T
        return cosine * self.slope.exp() + self.offset


class TinyEncoder(EmbeddedEncoder):
    """What both encoders have in common."""

    width = TinyEncodersConfig.width

    def __init__(self, config: TinyEncodersConfig) -> None:
        super().__init__()
        self.width, self.labels = config.width, config.labels
        self.prototypes = Prototypes(config.labels, config.width)

    @classmethod
    def build(cls, labels: Sequence[str] = ()) -> Self:
        return cls(TinyEncodersConfig(labels=tuple(labels)))


class TinyImageEncoder(TinyEncoder):
    """See `av2t_core.encoders.ImageEncoder`, `.EncoderClass` and `.naming.Sight`."""

    def __init__(self, config: TinyEncodersConfig) -> None:
        super().__init__(config)
        self.image_size = config.image_size
        self.trunk = EfficientNetLite()
        self.last = nn.Conv2d(self.trunk.channel_list[0], 1280, 1)
        self.head = nn.Linear(2 * 1280, config.width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) of 0..255 to (B, width)."""
        y = F.relu6(self.last(self.trunk(normalise_sam(images))[-1]))
        return self.head(torch.cat([y.mean(dim=(2, 3)), y.amax(dim=(2, 3))], dim=1))  # type: ignore[no-any-return]

    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        return self(stack_frames(images, self.image_size, "bilinear", antialias=True))  # type: ignore[no-any-return]

    def seen(self, v: Tensor) -> Tensor:
        return self.prototypes(v)[:, :-1].sigmoid()  # type: ignore[no-any-return]


class TinyAudioEncoder(TinyEncoder):
    """See `av2t_core.encoders.AudioEncoder`, `.EncoderClass` and `.naming.Hearing`."""

    def __init__(self, config: TinyEncodersConfig) -> None:
        super().__init__(config)
        self.trunk = Trunk(1, config.audio_channels, config.width)

    def forward(self, samples: Tensor) -> Tensor:
        """One second at 16 kHz, (B, 16000), to (B, width)."""
        decibels = log_mel(samples, sample_rate=SAMPLE_RATE, n_fft=512, hop=160, mels=MELS, low=50, high=8000)
        if self.training:
            decibels = _masked(decibels)
        return self.trunk(((decibels + 40) / 40)[:, None])  # type: ignore[no-any-return]

    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        samples = np.stack([mono(sound, SAMPLE_RATE) for sound in sounds])
        return self(torch.from_numpy(samples).to(self.prototypes.vectors.device))  # type: ignore[no-any-return]

    def silence(self, a: Tensor) -> Tensor:
        return self.prototypes(a)[:, -1].sigmoid()  # type: ignore[no-any-return]

    def heard(self, a: Tensor) -> Tensor:
        return self.prototypes(a)[:, :-1].sigmoid()  # type: ignore[no-any-return]


def _masked(decibels: Tensor) -> Tensor:
    """Of half of the pictures (B, mels, time) a band of pitches is lost, of two in five some time (SpecAugment)."""
    kept = decibels.clone()
    mels, steps = decibels.shape[1:]
    for picture, level in zip(kept, decibels.mean(dim=(1, 2)), strict=True):
        if torch.rand(()) < 0.5:
            low = int(torch.randint(mels, ()))
            picture[low : low + int(torch.randint(2, 14, ()))] = level
        if torch.rand(()) < 0.4:
            start = int(torch.randint(steps, ()))
            picture[:, start : start + int(torch.randint(3, 28, ()))] = level
    return kept
