"""Attention the plain way, to measure the fast one against.

Apart from `benchmark`, for segment-anything brings torchvision and with it torch's compiler: eight seconds of imports.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from segment_anything.modeling.image_encoder import Attention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from av2t_core.model.empty import empty_weights
from av2t_core.segmenters.evf_sam1 import RelativeAttention


@contextmanager
def eager_attention(sam: nn.Module) -> Iterator[None]:
    """Within it every attention computes, stores and reads its matrix, as the authors' code does."""
    replaced = {name: module for name, module in sam.named_modules() if isinstance(module, RelativeAttention)}
    for name, module in replaced.items():
        sam.set_submodule(name, _stock_attention(module))
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for name, module in replaced.items():
            sam.set_submodule(name, module)


def _stock_attention(module: RelativeAttention) -> Attention:
    """segment-anything's own, of the same parameters."""
    state = module.state_dict()
    height, width = ((len(state[f"rel_pos_{side}"]) + 1) // 2 for side in "hw")
    with empty_weights():
        stock = Attention(
            len(state["proj.bias"]), num_heads=module.num_heads, use_rel_pos=True, input_size=(height, width)
        )
    stock.load_state_dict(state, assign=True)
    return stock
