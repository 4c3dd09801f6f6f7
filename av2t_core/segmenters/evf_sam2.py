"""EVF-SAM2: the text-prompted segmenter with SAM2 (arXiv 2408.00714) from the stock `sam2` package."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self, cast

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from av2t_core.encoders.efficientnet import EfficientNetLite
from av2t_core.segmenters.beit3 import Beit3Config
from av2t_core.segmenters.evf_sam import EvfSam, EvfSamConfig, evf_published
from av2t_core.segmenters.sam import SamConfig

_FUSER, _FUSER_LAYERS = "memory_encoder.fuser.layers", 2


@dataclass(frozen=True, kw_only=True)
class Sam2Config(SamConfig):
    """The defaults are those of SAM2's Hiera-L.

    `trunk`: the image encoder's; what follows up to `window_pos_embed` is of Hiera alone.
    """

    trunk: Literal["hiera", "efficientnet-lite0"] = "hiera"
    embed_dim: int = 144
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    global_att_blocks: tuple[int, ...] = (23, 33, 43)
    window_spec: tuple[int, ...] = (8, 4, 16, 8)
    window_pos_embed: int = 7  # side of the position table that is shared by all windows
    memory: bool = False  # the video memory, which AV2T-SAM never runs but whose weights the checkpoints hold
    memory_layers: int = 4
    memory_ffn_width: int = 2048
    memory_width: int = 64


@dataclass(frozen=True, kw_only=True)
class EvfSam2Config(EvfSamConfig):
    sam: Sam2Config = field(default_factory=Sam2Config)

    def build(self) -> "EvfSam2":
        return EvfSam2(self)

    def complete(self, vocabulary: int = 64010) -> Self:
        """SAM2's video memory, too."""
        return replace(super().complete(vocabulary), sam=replace(self.sam, memory=True))


class EvfSam2(EvfSam):
    """See `EvfSam`."""

    trained: tuple[str, ...] = ("to_prompt.", "sam.sam_mask_decoder.", "sam.sam_prompt_encoder.no_mask_embed.")
    # And all that only the memory of earlier frames needs.
    unread = (
        *EvfSam.unread,
        *(
            f"sam.{name}"
            for name in ("memory_", "maskmem_", "mask_downsample.", "no_mem_pos_enc", "no_obj_", "obj_ptr_")
        ),
    )
    sizes: Mapping[str, EvfSam2Config] = {
        "large": EvfSam2Config(),
        # A trunk that has seen ImageNet, in place of Hiera: composed frames alone do not teach what things look like.
        "tiny": EvfSam2Config(
            sam=Sam2Config(image_size=256, trunk="efficientnet-lite0", width=128),
            beit3=Beit3Config(image_size=128, width=192, layers=2, heads=6, ffn_width=768, max_text=8),
            antialias=True,
        ),
    }
    published = evf_published(
        what="EVF-SAM2",
        part="evf-sam2",
        repository="YxZhang/evf-sam2-multitask",
        marks=("visual_model.sam_mask_decoder.",),
    )
    checkpoint = "evf_sam2"
    published_names = (
        # The authors' copy of SAM2 calls this `weight`, the published package `gamma`.
        *((f"visual_model.{_FUSER}.{i}.weight", f"sam.{_FUSER}.{i}.gamma") for i in range(_FUSER_LAYERS)),
        *EvfSam.published_names,
    )

    def __init__(self, config: EvfSam2Config) -> None:
        super().__init__(config, build_sam2(config.sam))

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.sam.image_encoder.trunk.blocks)

    @property
    def trunk(self) -> EfficientNetLite | Hiera:
        return cast(EfficientNetLite | Hiera, self.sam.image_encoder.trunk)

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) to the neck's levels, all of `width` channels, at S/4, S/8 and S/16."""
        return list(self.sam.image_encoder(images)["backbone_fpn"])

    def levels(self, features: list[Tensor]) -> list[Tensor]:
        """What the decoder reads: (B, width / 8, S/4), (B, width / 4, S/8), (B, width, S/16).

        The two finer ones pass convolutions that belong to the mask decoder, and so are trained.
        """
        fine, middle, coarse = features
        decoder = self.sam.sam_mask_decoder
        # A single frame has no past; SAM2 says so with an embedding of its own.
        return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + self.sam.no_mem_embed[0, 0, :, None, None]]

    def masks(self, features: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        fine, middle, coarse = self.levels(features)
        encoder = self.sam.sam_prompt_encoder
        dense = encoder.no_mask_embed.weight[0, :, None, None].expand_as(coarse)
        logits, ious, _, _ = self.sam.sam_mask_decoder(
            image_embeddings=coarse,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompt,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[fine, middle],
        )
        return logits, ious


class NoPositions(nn.Module):
    """In place of the neck's position maps (B, width, H, W) for each level, which only the video memory reads."""

    def forward(self, level: Tensor) -> Tensor:
        return level.new_empty(0)


def build_sam2(config: Sam2Config) -> SAM2Base:
    """The stock package's model with the settings of its published configs (sam2_hiera_*.yaml)."""
    trunk = EfficientNetLite() if config.trunk == "efficientnet-lite0" else _hiera(config)
    encoder = ImageEncoder(
        trunk=trunk,
        neck=FpnNeck(
            position_encoding=NoPositions(),
            d_model=config.width,
            backbone_channel_list=trunk.channel_list,
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        ),
        scalp=1,
    )
    sam = SAM2Base(
        image_encoder=encoder,
        memory_attention=_memory_attention(config) if config.memory else None,
        memory_encoder=_memory_encoder(config) if config.memory else None,
        num_maskmem=7 if config.memory else 0,
        image_size=config.image_size,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=config.memory,
        add_tpos_enc_to_obj_ptrs=False,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=config.memory,
        use_multimask_token_for_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
    )
    if not config.memory:
        sam.maskmem_tpos_enc = sam.no_mem_pos_enc = None
    return sam


def _hiera(config: Sam2Config) -> Hiera:
    return Hiera(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        stages=config.stages,
        global_att_blocks=config.global_att_blocks,
        window_pos_embed_bkg_spatial_size=(config.window_pos_embed, config.window_pos_embed),
        window_spec=config.window_spec,
    )


def _memory_attention(config: Sam2Config) -> MemoryAttention:
    side = config.image_size // 16

    def attention(**extra: object) -> RoPEAttention:
        return RoPEAttention(
            rope_theta=10000.0,
            feat_sizes=(side, side),
            embedding_dim=config.width,
            num_heads=1,
            downsample_rate=1,
            dropout=0.1,
            **extra,
        )

    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=attention(rope_k_repeat=True, kv_in_dim=config.memory_width),
        d_model=config.width,
        dim_feedforward=config.memory_ffn_width,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=attention(),
    )
    return MemoryAttention(d_model=config.width, pos_enc_at_input=True, layer=layer, num_layers=config.memory_layers)


def _memory_encoder(config: Sam2Config) -> MemoryEncoder:
    return MemoryEncoder(
        out_dim=config.memory_width,
        mask_downsampler=MaskDownSampler(embed_dim=config.width, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(
            CXBlock(dim=config.width, kernel_size=7, padding=3, layer_scale_init_value=1e-6, use_dwconv=True),
            num_layers=_FUSER_LAYERS,
        ),
        position_encoding=PositionEmbeddingSine(num_pos_feats=config.memory_width, temperature=10000),
        in_dim=config.width,
    )
