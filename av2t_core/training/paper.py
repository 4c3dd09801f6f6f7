"""The paper's training (sections 3.5 and 4.3): what learns, from which loss, by which optimiser, how fast.

What the paper leaves open (learning rates, weight decay, the size at which masks are compared) is as its authors' code
has it. Their batch is 8 clips, in fp32, without clipping of gradients or augmentation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.trained import is_trained
from av2t_core.training.losses import segmentation_loss


@dataclass(frozen=True, kw_only=True)
class PaperRecipe:
    """`lr` falls along half a cosine to `final_lr` over `epochs`."""

    epochs: int = 40
    lr: float = 2e-4
    final_lr: float = 1e-7
    weight_decay: float = 0.01


class PaperTraining:
    """A model in training: the parameters of `is_trained` learn, all others are frozen."""

    def __init__(self, model: AV2TSam, recipe: PaperRecipe) -> None:
        self.model = model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_trained(name))
        self.optimiser = AdamW(trained_parameters(model).values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = CosineAnnealingLR(self.optimiser, T_max=recipe.epochs, eta_min=recipe.final_lr)

    @property
    def lr(self) -> float:
        """The learning rate of this epoch."""
        return float(self.optimiser.param_groups[0]["lr"])

    def logits(self, images_sam: Tensor, images_mm: Tensor, v: Tensor, a: Tensor, size: tuple[int, int]) -> Tensor:
        """What the loss is computed on: the inputs of AV2TSam.forward to logits (B, H, W) at `size`, the targets'."""
        return self.model.segmenter.upsample(self.model(images_sam, images_mm, v, a), size)

    def step(self, logits: Tensor, target: Tensor) -> float:
        """Learn from logits (B, H, W) of `logits` and their masks (B, H, W) of 0 and 1; returns the loss."""
        loss = segmentation_loss(logits, target)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.item()

    def end_epoch(self) -> None:
        """The learning rate becomes that of the next epoch."""
        self.schedule.step()


def trained_parameters(model: AV2TSam) -> dict[str, nn.Parameter]:
    """The parameters that the paper trains, by name.

    Two heads of SAM's mask decoder are among them although no gradient reaches them: the loss sees neither the
    expected IoU nor, with SAM2, the score of there being an object.
    """
    return {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}
