"""The paper's training (sections 3.5 and 4.3): what learns, from which loss, by which optimiser, how fast.

The loss is binary cross-entropy plus soft IoU. As in its authors' code there is neither clipping of gradients nor
augmentation.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.segmenters import Images
from av2t_core.training.plan import PaperRecipe, TrainingError


def soft_iou(logits: Tensor, target: Tensor) -> Tensor:
    """logits and target (..., h, w) to the soft intersection over union (...,), with p = sigmoid(logits).

    An empty target gives 0, whatever is predicted, and so no gradient.
    """
    p = logits.sigmoid()
    intersection = (p * target).sum(dim=(-2, -1))
    union = (p + target).sum(dim=(-2, -1)) - intersection
    return intersection / union


def frame_losses(logits: Tensor, target: Tensor) -> Tensor:
    """logits and target (B, h, w) to (B, 2): each frame's mean cross-entropy over its pixels, and 1 - its soft IoU.

    The loss of a batch is the mean over its frames of the sum of both.
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))
    return torch.stack([bce, 1 - soft_iou(logits, target)], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """B frames to learn from. `images`, `v`, `a`, `features` and `prompts` are `AV2TSam.candidates`'s."""

    images: Images
    v: Tensor
    a: Tensor
    features: Sequence[Tensor] | None = None
    prompts: Tensor | None = None
    target: Tensor  # (B, H, W) of 0 and 1
    names: tuple[str, ...] = ()  # of the clips, for messages
    counts: bool = True  # False for a stand-in, by which a process takes part that has no clip of the batch


class Objective(nn.Module):
    """The model with its loss: one module, so that processes share the gradients of all of it."""

    def __init__(self, model: AV2TSam, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, H, W) at the targets' size."""
        with torch.autocast(inputs.v.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.model(inputs.images, inputs.v, inputs.a, inputs.features, inputs.prompts)
        height, width = inputs.target.shape[-2:]
        return self.model.segmenter.upsample(logits, (height, width))

    def forward(self, inputs: Inputs) -> Tensor:
        """The losses of each frame (B, 2); see `frame_losses`."""
        return frame_losses(self.logits(inputs), inputs.target)


class PaperTraining:
    """A model in training: the parameters of `AV2TSam.is_trained` learn, all others are frozen.

    The gradient of a batch is the same, however many processes share it and in how many parts they take it.
    """

    def __init__(self, model: AV2TSam, recipe: PaperRecipe, accelerator: Accelerator, *, bf16: bool = False) -> None:
        """`bf16`: the frozen encoders compute in bfloat16; what learns always computes in fp32."""
        self.accelerator = accelerator
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(model.is_trained(name))
        self.learned = trained_parameters(model)
        self.objective = Objective(model, bf16)
        self._shared = accelerator.prepare_model(self.objective)
        self.optimiser = AdamW(self.learned.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = CosineAnnealingLR(self.optimiser, T_max=recipe.epochs, eta_min=recipe.final_lr)

    def learn(self, parts: Iterable[Inputs], count: int, frames: int) -> dict[str, float]:
        """One step on a batch of `frames` frames, of which `parts`, `count` of them (one at least), are this process's.

        To its "loss", the sum of "bce" and "iou" (1 - soft IoU), and the norm of all gradients together, "gradient".
        TrainingError, before anything is changed: a loss or a gradient is not finite; it names the clips.
        """
        self.optimiser.zero_grad()
        seen: list[tuple[Tensor, tuple[str, ...]]] = []  # not the inputs, whose memory the next part may need
        for inputs in parts:
            last = len(seen) == count - 1
            with nullcontext() if last else self.accelerator.no_sync(self._shared):
                losses = self._shared(inputs)
                # The mean over the frames of all processes, whose gradients come together as their mean.
                weight = inputs.counts * self.accelerator.num_processes / frames
                torch.autograd.backward(losses.sum() * weight)
            seen.append((losses.detach() * inputs.counts, inputs.names if inputs.counts else ()))
            del inputs, losses
        sums = torch.stack([losses.sum(dim=0) for losses, _ in seen]).sum(dim=0)
        bce, iou = (self.accelerator.reduce(sums, reduction="sum") / frames).tolist()
        gradients = [p.grad for p in self.learned.values() if p.grad is not None]
        step = {"loss": bce + iou, "bce": bce, "iou": iou, "gradient": float(get_total_norm(gradients))}
        for what in ("loss", "gradient"):
            if not isfinite(step[what]):
                raise TrainingError(
                    f"the {what} is {step[what]} on {', '.join(_not_finite(seen))}: look at the files of these clips,"
                    " or use a smaller learning rate or fp32"
                )
        self.optimiser.step()
        return step


def _not_finite(seen: Sequence[tuple[Tensor, tuple[str, ...]]]) -> list[str]:
    """The clips whose loss is not finite; all of the batch, where only their gradient is not."""
    own = [(name, bool(losses[index].isfinite().all())) for losses, names in seen for index, name in enumerate(names)]
    of_batch: list[tuple[str, bool]] = gather_object(own)
    return list(dict.fromkeys([name for name, finite in of_batch if not finite] or [name for name, _ in of_batch]))


def accelerator(*, cpu: bool) -> Accelerator:
    """For `PaperTraining`; one process, or this one of several that `accelerate launch` or torchrun started."""
    return Accelerator(
        cpu=cpu,
        mixed_precision="no",  # whatever a launcher is configured for: Objective has its own
        kwargs_handlers=[
            # The mask decoder has heads that the loss does not see, and each feature leaves out a projection.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # So long may the others wait for the first one, which may have to measure on its own.
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
    )


def trained_parameters(model: AV2TSam) -> dict[str, nn.Parameter]:
    """The parameters that the paper trains, by name.

    Two heads of SAM's mask decoder are among them although no gradient reaches them: the loss sees neither the
    expected IoU nor, with SAM2, the score of there being an object.
    """
    return {name: parameter for name, parameter in model.named_parameters() if model.is_trained(name)}
