"""Fine-tuning on what people corrected: the paper's loss and optimiser, with settings fit for tens of clips.

The projector and the adapters learn, and nothing else: where they stand, all that the model knows of pictures, sounds
and edges is frozen. What they said of a replay of what the model learnt before, they are held to, so that it is not
forgotten.
"""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from av2t_core.errors import MemoryShortError
from av2t_core.evaluation.reliability import fit_lines
from av2t_core.finetuning.examples import Examples
from av2t_core.memory import is_out_of_memory
from av2t_core.model.inputs import normalise_sam
from av2t_core.model.trained import is_trained
from av2t_core.segmenters.recomputing import recompute_blocks
from av2t_core.training.paper import frame_losses
from av2t_core.training.plan import TrainingError
from av2t_core.training.replay import Drift, Replay
from av2t_core.training.run_folder import Position, RunFolder
from av2t_core.versions.checkpoint import Loaded

PIXELS_KEPT = 2 * 1024**2
"""Of SAM's input in a batch, up to which all that a gradient needs is kept; of more it is computed twice."""

MASK_DECODER = "mask-decoder"
"""What may learn, too: all that the paper trains, SAM's mask decoder and what writes its prompt among it."""

_LEAST_EPOCHS = 3

Row = tuple[Examples, int]
"""A keyframe: the index among its clip's."""


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe:
    """`epochs`: at most; with many keyframes fewer, three at least, so that no more than `steps` steps come of them.

    `batch` is in keyframes; `lr` rises over the first steps and falls along a cosine; `replay`: the weight of Drift
    beside the paper's loss.
    """

    epochs: int = 20
    steps: int = 2000
    batch: int = 10
    replay: float = 10.0
    lr: float = 4e-3
    weight_decay: float = 0.01
    seed: int = 123
    also: tuple[str, ...] = ()

    def learns(self, name: str) -> bool:
        """Whether the tensor of this name in AV2TSam.state_dict() does."""
        return name.startswith(("projector.", "adapters.")) or (MASK_DECODER in self.also and is_trained(name))


@dataclass(frozen=True, kw_only=True)
class Learned:
    """How far a training is: `step` of `steps`, the step's loss, and the mean loss of its epoch so far."""

    step: int
    steps: int
    epoch: int  # counted from 1
    epochs: int
    loss: float
    mean_loss: float


class FineTuning:
    """A model that learns from examples; it goes on in `folder` where it was cut off, and gives the same."""

    def __init__(
        self,
        loaded: Loaded,
        own: Sequence[Examples],
        replay: Replay | None,
        recipe: FineTuneRecipe,
        folder: RunFolder,
        *,
        at_once: int | None = None,
    ) -> None:
        """`own`: of each clip, one or more. `replay`: None where nothing of what the model learnt before is at hand.

        `at_once`: keyframes that go through the model together, None for the whole batch. It is for the memory, changes
        nothing else, and is halved whenever it proves too large.
        """
        self.loaded, self.recipe, self.folder = loaded, recipe, folder
        self.at_once = at_once or recipe.batch
        if recipe.batch * loaded.model.config.sam.image_size**2 > PIXELS_KEPT:
            recompute_blocks(loaded.model)
        self._own = [(examples, index) for examples in own for index in range(len(examples))]
        model = loaded.model
        self.parameters: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(recipe.learns(name))
            if parameter.requires_grad:
                self.parameters[name] = parameter
        self._drift = Drift(model, replay.to(loaded.device)) if replay is not None else None
        self._steps_of_epoch = ceil(len(self._own) / recipe.batch)
        self.optimiser = AdamW(self.parameters.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)

    @property
    def epochs(self) -> int:
        return min(self.recipe.epochs, max(_LEAST_EPOCHS, self.recipe.steps // self._steps_of_epoch))

    @property
    def steps(self) -> int:
        return self._steps_of_epoch * self.epochs

    def run(self) -> Generator[Learned]:
        """Learn, step by step. Who stops it in between finds it again where it was.

        TrainingError: it diverges. MemoryShortError: not even one keyframe at a time.
        """
        position = self._go_on()
        try:
            while position.epoch < self.epochs:
                loss = self._learn(position.epoch, position.step)
                position.step += 1
                position.bce += (loss[0] - position.bce) / position.step
                position.iou += (loss[1] - position.iou) / position.step
                epoch, mean = position.epoch + 1, position.bce + position.iou
                done = position.epoch * self._steps_of_epoch + position.step
                self.folder.log(
                    {"epoch": epoch, "step": position.step, "bce": loss[0], "iou": loss[1], "loss": sum(loss)}
                )
                if position.step == self._steps_of_epoch:
                    self.folder.log({"epoch": epoch, "loss": mean})
                    position = Position(epoch=position.epoch + 1)
                    self._save(position)
                yield Learned(
                    step=done,
                    steps=self.steps,
                    epoch=epoch,
                    epochs=self.epochs,
                    loss=sum(loss),
                    mean_loss=mean,
                )
        except GeneratorExit:
            self._save(position)
            raise

    def trained(self) -> dict[str, Tensor]:
        """What has learned, by its names in AV2TSam."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def _go_on(self) -> Position:
        state = self.folder.load()
        position: Position = state["position"] if state else Position()
        self.folder.forget_after(position)
        if state is not None:
            with torch.no_grad():
                for name, tensor in state["trained"].items():
                    self.parameters[name].copy_(tensor)
            self.optimiser.load_state_dict(state["optimiser"])
        return position

    def _save(self, position: Position) -> None:
        self.folder.save(position, self.trained(), optimiser=self.optimiser.state_dict())

    def _learn(self, epoch: int, step: int) -> tuple[float, float]:
        """One batch: its cross-entropy and 1 - its soft IoU."""
        done = epoch * self._steps_of_epoch + step
        # What is drawn depends on where it stands alone, so that it is the same after an interruption.
        rng = np.random.default_rng([self.recipe.seed, done])
        size = self.recipe.batch
        order = np.random.default_rng([self.recipe.seed, epoch, 1]).permutation(len(self._own))
        chosen = [self._own[index] for index in order[step * size : (step + 1) * size]]
        mirrored = rng.random(len(chosen)) < 0.5
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr * _pace(done, self.steps)
        total = self._gradients(chosen, mirrored)
        while total is None:
            self.at_once = max(1, self.at_once // 2)
            total = self._gradients(chosen, mirrored)
        if not total.isfinite().all():
            raise TrainingError(f"the loss is {total.tolist()} in step {done + 1}: look at the annotations' clips")
        self.optimiser.step()
        bce, iou = total.tolist()
        return bce, iou

    def _gradients(self, rows: Sequence[Row], mirrored: NDArray[np.bool_]) -> Tensor | None:
        """Those of a batch in place of any earlier ones; its losses (2,), None where the memory does not suffice.

        MemoryShortError: not even for one keyframe at a time.
        """
        self.optimiser.zero_grad()
        total = torch.zeros(2)
        try:
            for first in range(0, len(rows), self.at_once):
                some = slice(first, first + self.at_once)
                losses = self._losses(rows[some], mirrored[some]) / len(rows)
                torch.autograd.backward(losses.sum())
                total += losses.detach().cpu()
            if self._drift is not None:
                torch.autograd.backward(self.recipe.replay * self._drift())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self.at_once == 1:
                raise MemoryShortError(
                    f"to learn from one keyframe needs more memory than {self.loaded.device} has left; free some, or"
                    " use a smaller model"
                ) from error
            return None
        return total

    def _losses(self, rows: Sequence[Row], mirrored: NDArray[np.bool_]) -> Tensor:
        """(2,): see `frame_losses`, the sum over the keyframes."""
        *inputs, target = self._batch(rows, mirrored)
        with torch.autocast(self.loaded.device.type, torch.bfloat16, enabled=self.loaded.precision == "bf16"):
            logits = self.loaded.model(*inputs)
        height, width = target.shape[-2:]
        return frame_losses(self.loaded.model.segmenter.upsample(logits, (height, width)), target).sum(dim=0)

    def _batch(self, rows: Sequence[Row], mirrored: NDArray[np.bool_]) -> list[Tensor]:
        """AV2TSam's inputs and the target (B, H, W). Some are mirrored, picture and mask, which sounds alike."""
        read = [examples.row(index) for examples, index in rows]

        def turned(name: str) -> Tensor:
            images = [row[name].flip(-1) if turn else row[name] for row, turn in zip(read, mirrored, strict=True)]
            return torch.stack(images).to(self.loaded.device).float()

        v = torch.stack([row["v"][int(turn)] for row, turn in zip(read, mirrored, strict=True)])
        return [
            normalise_sam(turned("sam")),
            turned("multimodal") / 127.5 - 1,
            v.to(self.loaded.device),
            torch.stack([row["a"] for row in read]).to(self.loaded.device),
            turned("target"),
        ]


def _pace(step: int, steps: int) -> float:
    """Of the learning rate: a short rise, then half a cosine."""
    return min(1.0, (step + 1) / 10) * (0.01 + 0.99 * 0.5 * (1 + cos(pi * step / steps)))


LEAST = 3
"""Of so many keyframes at least a name is learnt."""

_DECAY = 0.0002  # few examples leave much open

Labelled = Sequence[tuple[Tensor, frozenset[str]]]
"""Embeddings (width,), and what of that which people labelled is to be heard, or seen, in each."""


def learnable(names: Sequence[str], sounds: Labelled) -> tuple[str, ...]:
    """Those of the names that are heard often enough, in their order."""
    counts = Counter(name for _, heard in sounds for name in heard)
    return tuple(name for name in names if counts[name] >= LEAST)


def fit_names(names: Sequence[str], sounds: Labelled, things: Labelled, replay: Replay | None) -> dict[str, Tensor]:
    """LearnedNamer's tensors. What the model learnt before is none of the names. At least one name."""
    none: frozenset[str] = frozenset()
    known_sounds = [(each, none) for each in replay.a] if replay is not None else []
    known_things = [(each, none) for each in replay.v] if replay is not None else []
    hearing, seeing = _lines(names, [*sounds, *known_sounds]), _lines(names, [*things, *known_things])
    return {
        "hearing.weight": hearing[:, :-1].contiguous(),
        "hearing.bias": hearing[:, -1].contiguous(),
        "seeing.weight": seeing[:, :-1].contiguous(),
        "seeing.bias": seeing[:, -1].contiguous(),
    }


def _lines(names: Sequence[str], examples: Labelled) -> Tensor:
    """A line for each name, (names, width + 1), in which a name's examples weigh as much as all others."""
    x = F.normalize(torch.stack([embedding for embedding, _ in examples]).double(), dim=-1)
    y = torch.tensor([[name in said for name in names] for _, said in examples], dtype=x.dtype)
    weight = torch.where(y > 0, 0.5 / y.sum(dim=0).clamp(min=1), 0.5 / (1 - y).sum(dim=0).clamp(min=1))
    return fit_lines(x, y, _DECAY, weight).float()
