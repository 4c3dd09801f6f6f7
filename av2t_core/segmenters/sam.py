"""SAM (arXiv 2304.02643) from the stock `segment-anything` package, around any image encoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

PATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """What all SAMs' configs have in common. `width`: of the neck, the prompts and the mask decoder."""

    image_size: int = 1024
    width: int = 256


def build_sam(image_encoder: nn.Module, config: SamConfig) -> "Sam":
    """The stock package's model with the settings of its published sizes (build_sam.py)."""
    # Its package brings torchvision, and that half of what a process needs to start.
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = config.image_size // PATCH_SIZE
    return Sam(
        image_encoder=image_encoder,
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


def decode_prompts(sam: "Sam", image: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Of one image (width, h, w), the upper left part of the grid or all of it, by sparse prompts (P, n, width).

    Returns three candidate masks for each prompt, logits (P, 3, 4 h, 4 w), and their expected IoU (P, 3).
    """
    height, width = image.shape[-2:]
    encoder = sam.prompt_encoder
    dense = encoder.no_mask_embed.weight[:, :, None, None].expand(1, -1, height, width)
    logits, ious = sam.mask_decoder(
        image_embeddings=image[None],
        image_pe=encoder.get_dense_pe()[..., :height, :width],
        sparse_prompt_embeddings=prompts,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return logits, ious
