"""EVF-SAM: the text-prompted segmenter with SAM (arXiv 2304.02643) from the stock `segment-anything` package."""

from functools import partial
from typing import Any, cast

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.model.config import AV2TSamConfig, Sam1Config
from av2t_core.segmenters.evf_sam import EvfSam


class EvfSam1(EvfSam):
    """See `av2t_core.segmenters.evf_sam.TextPromptedSegmenter`."""

    def __init__(self, config: AV2TSamConfig) -> None:
        assert isinstance(config.sam, Sam1Config)
        super().__init__(config, build_sam1(config.sam))
        self.image_size = config.sam.image_size

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.sam.image_encoder.blocks)

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) to the one level (B, width, S/16, S/16)."""
        return [self.sam.image_encoder(images)]

    def decode(self, features: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.sam.prompt_encoder
        positions = encoder.get_dense_pe()
        dense = encoder.no_mask_embed.weight[:, :, None, None].expand_as(features[0][:1])
        # The stock decoder takes several prompts for one image, not several images.
        decoded = [
            self.sam.mask_decoder(
                image_embeddings=image[None],
                image_pe=positions,
                sparse_prompt_embeddings=token[None],
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            for image, token in zip(features[0], prompt, strict=True)
        ]
        return torch.cat([logits for logits, _ in decoded]), torch.cat([ious for _, ious in decoded])

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """In two steps, as SAM does: to the size of its input first. One step differs by as much as 0.27."""
        square = (self.image_size, self.image_size)
        at_input = F.interpolate(logits[:, None], square, mode="bilinear", align_corners=False)
        return F.interpolate(at_input, size, mode="bilinear", align_corners=False)[:, 0]


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
        # Tables of differences to (H, H, c) and (W, W, c), in the queries' precision.
        rows = get_rel_pos(height, height, self.rel_pos_h).to(q.dtype)
        columns = get_rel_pos(width, width, self.rel_pos_w).to(q.dtype)
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


def build_sam1(config: Sam1Config) -> Sam:
    """The stock package's model with the settings of its published sizes (build_sam.py), with RelativeAttention."""
    grid = config.image_size // config.patch_size
    encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
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
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=config.width,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=config.width,
            transformer=TwoWayTransformer(depth=2, embedding_dim=config.width, num_heads=8, mlp_dim=2048),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
