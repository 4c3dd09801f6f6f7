"""EVF-SAM: the text-prompted segmenter with SAM (arXiv 2304.02643) from the stock `segment-anything` package."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.model.published_weights import empty_weights
from av2t_core.segmenters.evf_sam import EvfSam, EvfSamConfig, evf_published
from av2t_core.segmenters.sam import PATCH_SIZE, SamConfig, build_sam, decode_prompts

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from segment_anything.modeling.image_encoder import Attention


@dataclass(frozen=True, kw_only=True)
class Sam1Config(SamConfig):
    """The defaults are ViT-H's."""

    embed_dim: int = 1280
    num_heads: int = 16
    blocks: int = 32
    global_att_blocks: tuple[int, ...] = (7, 15, 23, 31)
    window_size: int = 14


@dataclass(frozen=True, kw_only=True)
class EvfSam1Config(EvfSamConfig):
    sam: Sam1Config = field(default_factory=Sam1Config)

    def build(self) -> "EvfSam1":
        return EvfSam1(self)


class EvfSam1(EvfSam):
    """See `EvfSam`."""

    shared_adapter = True
    trained: tuple[str, ...] = ("to_prompt.", "sam.mask_decoder.", "sam.prompt_encoder.no_mask_embed.")
    sizes: Mapping[str, EvfSam1Config] = {"large": EvfSam1Config()}
    published = evf_published(
        what="EVF-SAM",
        part="evf-sam1",
        repository="YxZhang/evf-sam-multitask",
        marks=("visual_model.mask_decoder.",),
    )
    checkpoint = "evf_sam"

    def __init__(self, config: EvfSam1Config) -> None:
        super().__init__(config, build_sam1(config.sam))

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.sam.image_encoder.blocks)

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) to the one level (B, width, S/16, S/16)."""
        return [self.sam.image_encoder(images)]

    def masks(self, features: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        # The stock decoder takes several prompts for one image, not several images.
        decoded = [decode_prompts(self.sam, *each) for each in zip(features[0], prompt[:, None], strict=True)]
        return torch.cat([logits for logits, _ in decoded]), torch.cat([ious for _, ious in decoded])

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """In two steps, as SAM does: to the size of its input first. One step differs by as much as 0.27."""
        return super().upsample(super().upsample(logits, (self.image_size, self.image_size)), size)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        replaced = {name: each for name, each in self.named_modules() if isinstance(each, RelativeAttention)}
        for name, module in replaced.items():
            self.set_submodule(name, _stock_attention(module))
        try:
            with super().plain_attention():
                yield
        finally:
            for name, module in replaced.items():
                self.set_submodule(name, module)


class RelativeAttention(nn.Module):
    """The stock attention of SAM's trunk, its parameters and its result, without the matrix of all pairs of places.

    To the score of query q and key (y, x) it adds q·R_h[y] + q·R_w[x], the decomposed relative positions (SAM,
    appendix A; arXiv 2112.01526, section 4.1). That is a dot product once more: q is lengthened by its products with
    all rows and columns, each key by the indicator of its own row and column. So the fused kernel can do it, and the
    GiB that the matrix takes for each frame and global block of ViT-H is saved.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.num_heads: int = stock.num_heads
        self.scale: float = stock.scale
        self.qkv: nn.Linear = stock.qkv
        self.proj: nn.Linear = stock.proj
        self.rel_pos_h, self.rel_pos_w = stock.rel_pos_h, stock.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C)
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, H W, C / heads)
        rows, columns = _of_pairs(self.rel_pos_h, height).to(q.dtype), _of_pairs(self.rel_pos_w, width).to(q.dtype)
        places = q.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", places, rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", places, columns).flatten(2, 3)
        place = torch.arange(height * width, device=x.device)
        row = F.one_hot(place // width, height).to(q.dtype)  # (H W, H)
        column = F.one_hot(place % width, width).to(q.dtype)
        indicator = torch.cat([row, column], dim=1).expand(batch, self.num_heads, -1, -1)
        size = q.shape[-1]
        longer = F.pad(v, (0, height + width))  # the kernel wants queries, keys and values of one width
        attended = F.scaled_dot_product_attention(
            torch.cat([q * self.scale, by_row, by_column], dim=-1), torch.cat([k, indicator], dim=-1), longer, scale=1.0
        )
        heads = attended[..., :size].transpose(1, 2)  # (B, H W, heads, C / heads)
        return self.proj(heads.reshape(batch, height, width, channels))  # type: ignore[no-any-return]


def _of_pairs(table: Tensor, size: int) -> Tensor:
    """A table of differences (2 * size - 1, c) to what belongs to each pair of places (size, size, c)."""
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places + size - 1]


def build_sam1(config: Sam1Config) -> "Sam":
    """The stock package's model with a ViT for an image encoder, with RelativeAttention."""
    from segment_anything.modeling import ImageEncoderViT  # as in build_sam

    encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=PATCH_SIZE,
        embed_dim=config.embed_dim,
        depth=config.blocks,
        num_heads=config.num_heads,
        mlp_ratio=4,
        out_chans=config.width,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_att_blocks,
    )
    for block in encoder.blocks:
        block.attn = RelativeAttention(block.attn)
    return build_sam(encoder, config)


def _stock_attention(module: RelativeAttention) -> "Attention":
    """segment-anything's own, of the same parameters."""
    from segment_anything.modeling.image_encoder import Attention

    state = module.state_dict()
    height, width = ((len(state[f"rel_pos_{side}"]) + 1) // 2 for side in "hw")
    with empty_weights():
        stock = Attention(
            len(state["proj.bias"]), num_heads=module.num_heads, use_rel_pos=True, input_size=(height, width)
        )
    stock.load_state_dict(state, assign=True)
    return stock
