"""Memory for time: what a gradient needs is computed a second time instead of kept."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from av2t_core.model.av2t_sam import AV2TSam


def recompute_blocks(model: AV2TSam) -> None:
    """From now on each block of the two encoders keeps its input alone, and computes again what its gradient needs.

    What an adapter adds to a block's input is added before. Nothing in the blocks is random.
    """
    blocks: list[nn.Module] = [*model.segmenter.blocks, *model.segmenter.multimodal.encoder.layers]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
