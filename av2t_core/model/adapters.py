"""The adapters, which bring f into SAM's image encoder (paper, section 3.4, equation 1)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Adapters(nn.Module):
    """One MLP for each block of the trunk: f (B, feature_width) to (B, C_i), C_i the block's input width.

    `shared_output`: the second layer is one for all blocks, whose widths are equal then. It is so with SAM, and not
    with SAM2.
    """

    def __init__(
        self, feature_width: int, hidden_width: int, block_widths: Sequence[int], shared_output: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(feature_width, hidden_width), nn.GELU()) for _ in block_widths
        )
        self.shared: nn.Linear | None = None
        if shared_output:
            [width] = set(block_widths)
            self.shared = nn.Linear(hidden_width, width)
        else:
            for block, width in zip(self.blocks, block_widths, strict=True):
                block.append(nn.Linear(hidden_width, width))  # type: ignore[operator]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from which the paper's training begins."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, f: Tensor) -> list[Tensor]:
        return [block(f) if self.shared is None else self.shared(block(f)) for block in self.blocks]


@contextmanager
def adapted(blocks: nn.ModuleList, additions: Sequence[Tensor] | None, channel_axis: int = -1) -> Iterator[None]:
    """Within it, each block sees its input (B, H, W, C_i) plus its addition (B, C_i) at every place.

    `channel_axis`: 1 if the input is (B, C_i, H, W).

    The addition comes before the block's first norm, so that it enters the shortcut too. A hook does it, so the trunk
    is the stock package's own. None adds nothing.
    """

    def add(addition: Tensor):  # type: ignore[no-untyped-def]
        everywhere = addition[:, None, None, :].movedim(-1, channel_axis)
        return lambda _block, args: (args[0] + everywhere.to(args[0].dtype), *args[1:])

    handles = [
        block.register_forward_pre_hook(add(addition))
        for block, addition in zip(blocks, additions or [], strict=additions is not None)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
