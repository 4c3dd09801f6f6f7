"""The semantically aligned feature and the projection module (paper, section 3.3)."""

from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.model.config import AV2TSamConfig

Asked = TypeVar("Asked", contravariant=True)


class Prompter(Protocol[Asked]):
    """Makes text prompts of what a segmenter is asked for: of features f, or of words."""

    def tokens(self, asked: Asked, /) -> Tensor:
        """B of them to text tokens (B, n, text_width)."""


class Projector(nn.Module):
    """f = (W_a a + b_a) * (W_v v + b_v), and the two-layer MLP that turns f into text tokens."""

    def __init__(self, config: AV2TSamConfig) -> None:
        super().__init__()
        width = config.feature_width
        self.kind = config.feature
        self.text_tokens = config.text_tokens
        self.audio_proj = nn.Linear(config.audio_width, width)
        self.vision_proj = nn.Linear(config.image_width, width)
        self.to_text_space = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.text_tokens * config.segmenter.text_width)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from which the paper's training begins."""
        for linear in (self.audio_proj, self.vision_proj):
            nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
        for module in self.to_text_space:
            if isinstance(module, nn.Linear):
                module.reset_parameters()

    def feature(self, v: Tensor, a: Tensor) -> Tensor:
        """v (B, image_width) and a (B, audio_width), of any length, to f (B, feature_width).

        `clap` and `clip` are the paper's ablations (Table 2): one factor of the product alone.
        """
        if self.kind == "clap":
            return self.audio_proj(F.normalize(a, dim=-1))  # type: ignore[no-any-return]
        if self.kind == "clip":
            return self.vision_proj(F.normalize(v, dim=-1))  # type: ignore[no-any-return]
        return self.audio_proj(F.normalize(a, dim=-1)) * self.vision_proj(F.normalize(v, dim=-1))  # type: ignore[no-any-return]

    def tokens(self, f: Tensor) -> Tensor:
        """f (B, feature_width) to text tokens (B, text_tokens, text_width)."""
        return torch.unflatten(self.to_text_space(f), -1, (self.text_tokens, -1))
