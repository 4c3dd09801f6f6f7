"""BEiT-3 (arXiv 2208.10442), the multimodal encoder of EVF-SAM, as much of it as a forward pass needs.

A multiway transformer: vision and text share the attention, and each has projections, norms and feed-forward networks
of its own (A for vision, B for text, the names of the published weights). Pre-norm with sub-norms (arXiv 2210.06423).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5
POSITION_OFFSET = 2  # rows 0 and 1 of the position tables belong to padding, as in fairseq


@dataclass(frozen=True, kw_only=True)
class Beit3Config:
    """As EVF-SAM has it (arXiv 2406.20076, section 3)."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    ffn_width: int = 4096
    max_text: int = 1024  # rows of the text position table
    vocabulary: int = 0  # rows of the word table, which text tokens need not; 0 leaves it out


class Multiway(nn.Module):
    """Two modules of one kind: A for the first `split` places of the sequence (vision), B for the others (text)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.A = make()
        self.B = make()

    def forward(self, x: Tensor, split: int) -> Tensor:  # (B, N, C)
        return torch.cat([self.A(x[:, :split]), self.B(x[:, split:])], dim=1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = Multiway(lambda: nn.Linear(width, width))
        self.v_proj = Multiway(lambda: nn.Linear(width, width))
        self.q_proj = Multiway(lambda: nn.Linear(width, width))
        self.out_proj = Multiway(lambda: nn.Linear(width, width))
        self.inner_attn_ln = Multiway(lambda: nn.LayerNorm(width, eps=EPS))

    def forward(self, x: Tensor, split: int) -> Tensor:
        q, k, v = (
            proj(x, split).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out_proj(self.inner_attn_ln(x, split), split)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.ffn_layernorm = nn.LayerNorm(ffn_width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.self_attn = Attention(config.width, config.heads)
        self.self_attn_layer_norm = Multiway(lambda: nn.LayerNorm(config.width, eps=EPS))
        self.ffn = Multiway(lambda: FeedForward(config.width, config.ffn_width))
        self.final_layer_norm = Multiway(lambda: nn.LayerNorm(config.width, eps=EPS))

    def forward(self, x: Tensor, split: int) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x, split), split)
        return x + self.ffn(self.final_layer_norm(x, split), split)  # type: ignore[no-any-return]


class VisionEmbedding(nn.Module):
    """Patches of an image (B, 3, S, S) behind the CLS token: (B, 1 + (S / patch)^2, width)."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))  # of the pre-training, never read
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.proj(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)


class Encoder(nn.Module):
    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        places = 1 + (config.image_size // config.patch_size) ** 2
        self.embed_positions = nn.ModuleDict(
            {
                "A": nn.Embedding(places + POSITION_OFFSET, config.width),
                "B": nn.Embedding(config.max_text, config.width),
            }
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.layer_norm = Multiway(lambda: nn.LayerNorm(config.width, eps=EPS))

    def forward(self, vision: Tensor, text: Tensor) -> Tensor:
        split = vision.shape[1]
        x = torch.cat([vision + self._positions("A", split), text + self._positions("B", text.shape[1])], dim=1)
        for layer in self.layers:
            x = layer(x, split)
        return self.layer_norm(x, split)  # type: ignore[no-any-return]

    def _positions(self, modality: str, count: int) -> Tensor:
        table = self.embed_positions[modality].weight
        return cast(Tensor, table)[POSITION_OFFSET : POSITION_OFFSET + count]


class Beit3(nn.Module):
    """images (B, 3, S, S) and text tokens (B, n, width) to the sequence (B, 1 + patches + n, width); place 0 is CLS."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        if config.vocabulary:
            self.text_embed = nn.Embedding(config.vocabulary, config.width)
        self.vision_embed = VisionEmbedding(config)
        self.encoder = Encoder(config)
        for name, parameter in self.named_parameters():
            # transformers' usual start; the published weights replace it
            if parameter.ndim >= 2 and "norm" not in name:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        return self.encoder(self.vision_embed(images), text)  # type: ignore[no-any-return]
