"""TinyViT (arXiv 2207.10666), the image encoder of MobileSAM (arXiv 2306.14289), with its neck and no class head.

Convolutions down to S/4, then three stages of attention within windows. As MobileSAM has it, the last stage stays at
S/16. Batch norms are part of the convolutions before them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4  # of the hidden widths
# What convolutions expand is computed so many rows at a time on a CPU: it is the largest tensor, and of a whole frame
# it takes twice as long, for it leaves the caches and is new memory each time.
_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class TinyVitConfig:
    """TinyViT-5M's. The first entry of `widths` and `depths` is the convolutions', the others are the stages'."""

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 5, 10)
    windows: tuple[int, ...] = (7, 14, 7)
    strides: tuple[int, ...] = (2, 2, 1)  # from stage to stage


def gelu(x: Tensor) -> Tensor:
    """In place, unless a gradient is wanted: x must be of no more use."""
    return F.gelu(x) if x.requires_grad else torch.ops.aten.gelu_(x)


class Gelu(nn.Module):
    """As `gelu`."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


class TinyVit(nn.Module):
    def __init__(self, config: TinyVitConfig, width: int) -> None:
        """`width`: of the neck."""
        super().__init__()
        first, *widths = config.widths
        count, *depths = config.depths
        self.stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 3, stride=2, padding=1),
            Gelu(),
            nn.Conv2d(first // 2, first, 3, stride=2, padding=1),
        )
        self.convolutions = nn.ModuleList(Convolutions(first) for _ in range(count))
        self.merges = nn.ModuleList(Merge(*each) for each in zip(config.widths, widths, config.strides, strict=False))
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(channels, heads, window) for _ in range(depth))
            for channels, depth, heads, window in zip(widths, depths, config.heads, config.windows, strict=True)
        )
        self.neck = Neck(widths[-1], width)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), sides of multiples of 16, to (B, width, H/16, W/16)."""
        x = self.stem(images)
        for convolutions in self.convolutions:
            x = convolutions(x)
        for merge, stage in zip(self.merges, self.stages, strict=True):
            x = merge(x).permute(0, 2, 3, 1)  # (B, h, w, C)
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
            x = x.permute(0, 3, 1, 2)
        return self.neck(x)  # type: ignore[no-any-return]


class Convolutions(nn.Module):
    """An inverted residual: (B, C, h, w) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=(0, 1), groups=hidden)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        if x.device.type != "cpu":
            return self._rows(x, 0, height)
        parts = ((first, self._rows(x, first, first + _ROWS)) for first in range(0, height, _ROWS))
        if torch.is_grad_enabled():
            return torch.cat([part for _, part in parts], dim=2)
        whole = torch.empty_like(x)
        for first, part in parts:
            whole[:, :, first : first + _ROWS] = part
        return whole

    def _rows(self, x: Tensor, first: int, end: int) -> Tensor:
        """Those of the result; the convolution reads one more on either side, or zeros at the edge."""
        height = x.shape[2]
        hidden = gelu(self.expand(x[:, :, max(0, first - 1) : end + 1]))
        if first == 0 or end >= height:
            hidden = F.pad(hidden, (0, 0, int(first == 0), int(end >= height)))
        return gelu(self.project(gelu(self.depthwise(hidden))) + x[:, :, first:end])


class Merge(nn.Module):
    """To the next stage's width and size: (B, C, h, w) to (B, C', h / stride, w / stride)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels_in, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(gelu(self.depthwise(gelu(self.expand(x)))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention within windows, a convolution for what is near, and an MLP: (B, h, w, C) to the same."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.width = channels
        self.attention = WindowAttention(channels, heads, window)
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, EXPANSION * channels),
            Gelu(),
            nn.Linear(EXPANSION * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        x = self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Each place looks at those of its own window, (B, h, w, C) to the same.

    `biases` (heads, side, side): what is added to the score of two places by how many rows and columns they are apart.
    Windows that reach over the edge are filled with zeros, which take part: the weights were trained with them.
    """

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.biases = nn.Parameter(torch.zeros(heads, side, side))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        side, rows, columns = self.side, -(-height // self.side), -(-width // self.side)  # of windows
        x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3).reshape(-1, side**2, channels)
        qkv = self.qkv(self.norm(windows)).view(len(windows), side**2, self.heads, -1)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)  # (windows, heads, s s, C / heads)
        # With a mask of fewer dimensions the fused kernel would not be used, which is seven times as fast.
        attended = F.scaled_dot_product_attention(q, k, v, self._pairs().to(q.dtype)[None])
        places: Tensor = self.project(attended.transpose(1, 2).flatten(2))
        places = places.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return places.reshape(x.shape)[:, :height, :width]

    def _pairs(self) -> Tensor:
        """The biases of all pairs of places of a window (heads, s s, s s)."""
        place = torch.arange(self.side, device=self.biases.device)
        apart = (place[:, None] - place).abs()
        return self.biases[:, apart[:, None, :, None], apart[None, :, None, :]].flatten(3, 4).flatten(1, 2)


class Neck(nn.Module):
    """(B, C, h, w) to (B, width, h, w)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 1, bias=False)
        self.first_norm = nn.LayerNorm(width, eps=1e-6)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
            x = norm(convolution(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x
