"""SAM's prompt encoder and mask decoder (arXiv 2304.02643, appendix A), for one image with many prompts.

Their tensors have the names of the stock package's, whose masks they give. What all prompts of an image share is
computed once, and no large tensor changes its order in memory. They start without that package, which brings
torchvision, and that half of what a process needs to start.
"""

from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.segmenters.sam import PATCH_SIZE, SamConfig

CANDIDATES = 3
"""For each prompt; a further token, for a single mask, is not asked."""

_HEADS, _DEPTH, _MLP = 8, 2, 2048
_SURENESS = 256  # hidden width of what tells the expected IoU
_NOT_A_POINT = -1


class Sam(nn.Module):
    """Any image encoder, and what asks it."""

    def __init__(self, image_encoder: nn.Module, config: SamConfig) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(config.width, config.image_size)
        self.mask_decoder = MaskDecoder(config.width)

    def decode(self, image: Tensor, prompts: Tensor, dense: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of one image (width, h, w), the upper left part of the grid or all of it, by sparse prompts (P, n, width).

        `dense` (P, width, h, w): of mask prompts; None: there are none. Returns the candidates for each prompt, logits
        (P, CANDIDATES, 4 h, 4 w), and their expected IoU (P, CANDIDATES).
        """
        height, width = image.shape[-2:]
        given = self.prompt_encoder.no_mask_embed.weight[None] if dense is None else dense.flatten(2).mT
        keys = image.flatten(1).T[None] + given  # (1 or P, h w, width)
        places = self.prompt_encoder.grid(height, width)
        logits, ious = self.mask_decoder(keys, places, prompts, height, width)
        return logits, ious


class PromptEncoder(nn.Module):
    def __init__(self, width: int, image_size: int, mask_width: int = 16) -> None:
        super().__init__()
        self.image_size = image_size
        self.pe_layer = Places(width)
        # Of points that are not in the thing and that are, and of a box's upper left and lower right corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_width // 4, 2, stride=2),
            LayerNorm2d(mask_width // 4),
            nn.GELU(),
            nn.Conv2d(mask_width // 4, mask_width, 2, stride=2),
            LayerNorm2d(mask_width),
            nn.GELU(),
            nn.Conv2d(mask_width, width, 1),
        )

    def forward(self, boxes: Tensor | None, points: Tensor | None, point_labels: Tensor | None) -> Tensor:
        """Pixels of the square, `boxes` (P, 4) and `points` (P, k, 2) with `point_labels` (P, k), to (P, n, width).

        See `MobileSam.prompt_tokens`.
        """
        tokens = []
        if points is not None:
            assert point_labels is not None
            if boxes is None:
                points, point_labels = F.pad(points, (0, 0, 0, 1)), F.pad(point_labels, (0, 1), value=_NOT_A_POINT)
            real = (point_labels != _NOT_A_POINT)[..., None]
            kinds = _weights(*self.point_embeddings[:2], self.not_a_point_embed)
            tokens.append(self._placed(points) * real + kinds[point_labels.long()])
        if boxes is not None:
            tokens.append(self._placed(boxes.reshape(-1, 2, 2)) + _weights(*self.point_embeddings[2:]))
        return torch.cat(tokens, dim=1)

    def grid(self, height: int, width: int) -> Tensor:
        """What tells the places of the grid's upper left part: (height * width, width)."""
        device = self.no_mask_embed.weight.device
        y, x = (torch.arange(side, device=device) + 0.5 for side in (height, width))
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        return self.pe_layer(places * PATCH_SIZE / self.image_size)  # type: ignore[no-any-return]

    def _placed(self, pixels: Tensor) -> Tensor:
        return self.pe_layer((pixels + 0.5) / self.image_size)  # type: ignore[no-any-return]


def _weights(*embeddings: nn.Module) -> Tensor:
    return torch.cat([each.get_parameter("weight") for each in embeddings])


class Places(nn.Module):
    """Random Fourier features (Tancik et al., arXiv 2006.10739): x and y in 0..1 (…, 2) to (…, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix: Tensor
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        turns = 2 * pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([turns.sin(), turns.cos()], dim=-1)


class MaskDecoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(1 + CANDIDATES, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8) for _ in range(1 + CANDIDATES))
        self.iou_prediction_head = Mlp(width, _SURENESS, 1 + CANDIDATES)

    def forward(self, keys: Tensor, places: Tensor, prompts: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Of an image keys (1 or P, h w, width) and `places` (h w, width); see `Sam.decode`."""
        own = _weights(self.iou_token, self.mask_tokens).expand(len(prompts), -1, -1)
        queries, keys = self.transformer(torch.cat([own, prompts], dim=1), keys, places)
        asked = zip(queries[:, 2 : 2 + CANDIDATES].unbind(dim=1), self.output_hypernetworks_mlps[1:], strict=True)
        weights = torch.stack([mlp(query) for query, mlp in asked], dim=-1)  # (P, width / 8, CANDIDATES)
        logits = self._upscaled(keys).flatten(1, -2) @ weights
        logits = logits.view(len(prompts), height, width, 2, 2, 2, 2, CANDIDATES)
        logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(prompts), CANDIDATES, 4 * height, 4 * width)
        return logits, self.iou_prediction_head(queries[:, 0])[:, 1:]

    def _upscaled(self, keys: Tensor) -> Tensor:
        """(P, h w, width) to (P, h w, 2, 2, 2, 2, width / 8): what lies in each place, row and column by turns.

        Convolutions whose stride is their size, so that each place is by itself.
        """
        first, norm, gelu, second, _ = self.output_upscaling
        return gelu(_spread(second, gelu(norm.of_last(_spread(first, keys)))))  # type: ignore[no-any-return, operator]


def _spread(convolution: nn.Module, x: Tensor) -> Tensor:
    """(…, C) to (…, 2, 2, C')."""
    assert isinstance(convolution, nn.ConvTranspose2d)
    assert convolution.bias is not None
    matrix = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 2 C', C)
    return F.linear(x, matrix, convolution.bias.repeat(4)).reshape(*x.shape[:-1], 2, 2, -1)


class TwoWayTransformer(nn.Module):
    """Queries (P, n, width), and keys (1 or P, h w, width) at `places`, to both as (P, …): each looks at the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, first=index == 0) for index in range(_DEPTH))
        self.final_attn_token_to_image = Attention(width, width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, prompts: Tensor, keys: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        queries = prompts
        for layer in self.layers:
            queries, keys = layer(queries, keys, prompts, places)
        attended = self.final_attn_token_to_image(queries + prompts, keys + places, keys)
        return self.norm_final_attn(queries + attended), keys


class TwoWayBlock(nn.Module):
    def __init__(self, width: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(width, _MLP), "lin2": nn.Linear(_MLP, width)})
        self.norm3 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2)
        self.norm4 = nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor, prompts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:  # the queries are the prompts themselves
            queries = self.norm1(self.self_attn(queries, queries, queries))
        else:
            asking = queries + prompts
            queries = self.norm1(queries + self.self_attn(asking, asking, queries))
        placed = keys + places
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + prompts, placed, keys))
        queries = self.norm3(queries + self.mlp["lin2"](self.mlp["lin1"](queries).relu()))
        return queries, self.norm4(keys + self.cross_attn_image_to_token(placed, queries + prompts, queries))


class Attention(nn.Module):
    """Of several heads, `inner` wide: q (P, n, width), k and v (P, m, width) to (P, n, width). A 1 for P is shared."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (_heads(each) for each in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        count = max(len(q), len(k))
        q, k, v = (each.expand(count, -1, -1, -1) for each in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _heads(x: Tensor) -> Tensor:
    """(P, n, inner) to (P, heads, n, inner / heads)."""
    return x.reshape(*x.shape[:2], _HEADS, -1).transpose(1, 2)


class Mlp(nn.Module):
    """Of three layers."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(second(first(x).relu()).relu())  # type: ignore[no-any-return]


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_last(self, x: Tensor) -> Tensor:
        """Over those of (…, C)."""
        return super().forward(x)
