"""Fine-tuning on what people corrected: the paper's loss and optimiser, with settings fit for tens of clips.

The projector and the adapters learn, and people's names for things; all that the model knows of pictures, sounds and
edges is frozen. A replay of what the model learned before holds them to what they said of it, so that it is not
forgotten.
"""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from av2t_core.errors import MemoryShortError
from av2t_core.evaluation.reliability import fit_lines
from av2t_core.finetuning.examples import Examples
from av2t_core.memory import is_out_of_memory
from av2t_core.model.av2t_sam import DRAWN, AV2TSam
from av2t_core.training.loop import Loop, Progress, Stateful
from av2t_core.training.paper import Inputs, Objective
from av2t_core.training.plan import TrainingError
from av2t_core.training.replay import Drift, Replay
from av2t_core.training.run_folder import Entry, Position, RunFolder
from av2t_core.versions.checkpoint import Loaded

PIXELS_KEPT = 2 * 1024**2
"""Of the segmenter's input in a batch; with more, what a gradient needs is computed twice instead of stored."""

MASK_DECODER = "mask-decoder"
"""Lets all learn that the paper trains, such as SAM's mask decoder and what writes its prompt."""

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

    def learns(self, model: AV2TSam, name: str) -> bool:
        """Whether the model's tensor of this name does."""
        return name.startswith(DRAWN) or (MASK_DECODER in self.also and model.is_trained(name))


class FineTuning:
    """A model that learns from examples, and the Learner of its loop, which resumes in `folder`."""

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
        """`own`: of each clip, one or more. `replay`: None where the model has none.

        `at_once`: keyframes that go through the model together, None for the whole batch. It changes nothing but the
        memory, and is halved whenever it proves too large.
        """
        self.loaded, self.recipe, self.folder = loaded, recipe, folder
        self.at_once = at_once or recipe.batch
        if recipe.batch * loaded.model.segmenter.image_size**2 > PIXELS_KEPT:
            loaded.model.recompute()
        self._own = [(examples, index) for examples in own for index in range(len(examples))]
        parameters = dict(loaded.model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(recipe.learns(loaded.model, name))
        self.learned: Mapping[str, Tensor] = {name: p.detach() for name, p in parameters.items() if p.requires_grad}
        self._drift = Drift(loaded.model, replay) if replay is not None else None
        self._objective = Objective(loaded.model, bf16=loaded.precision == "bf16")
        learning = [p for p in parameters.values() if p.requires_grad]
        self.optimiser = AdamW(learning, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.states: Mapping[str, Stateful] = {"optimiser": self.optimiser}
        self._steps_of_epoch = ceil(len(self._own) / recipe.batch)
        self.epochs = min(recipe.epochs, max(_LEAST_EPOCHS, recipe.steps // self._steps_of_epoch))
        self.steps = self._steps_of_epoch * self.epochs

    def run(self) -> Generator[Progress]:
        """Learn, step by step. TrainingError: it diverges. MemoryShortError: not even one keyframe fits at a time."""
        yield from Loop(self, self.folder, epochs=self.epochs, steps=self._steps_of_epoch).run()

    def learn(self, epoch: int, first: int) -> Generator[Entry]:
        recipe = self.recipe
        order = np.random.default_rng([recipe.seed, epoch, 1]).permutation(len(self._own))
        for step in range(first, self._steps_of_epoch):
            done = epoch * self._steps_of_epoch + step
            rows = [self._own[index] for index in order[step * recipe.batch : (step + 1) * recipe.batch]]
            mirrored = np.random.default_rng([recipe.seed, done]).random(len(rows)) < 0.5
            for group in self.optimiser.param_groups:
                group["lr"] = recipe.lr * _pace(done, self.steps)
            while (losses := self._gradients(rows, mirrored)) is None:
                self.at_once = max(1, self.at_once // 2)
            if not losses.isfinite().all():
                raise TrainingError(f"the loss is {losses.tolist()} in step {done + 1}: look at the annotations' clips")
            self.optimiser.step()
            bce, iou = losses.tolist()
            yield {"bce": bce, "iou": iou, "loss": bce + iou}

    def end_epoch(self, position: Position) -> Entry:
        return {"loss": position.loss}

    def _gradients(self, rows: Sequence[Row], mirrored: NDArray[np.bool_]) -> Tensor | None:
        """Those of a batch in place of any earlier ones; its losses (2,), None where the memory does not suffice."""
        self.optimiser.zero_grad()
        total = torch.zeros(2)
        try:
            for first in range(0, len(rows), self.at_once):
                some = slice(first, first + self.at_once)
                losses = self._objective(self._inputs(rows[some], mirrored[some])).sum(dim=0) / len(rows)
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

    def _inputs(self, rows: Sequence[Row], mirrored: NDArray[np.bool_]) -> Inputs:
        """Some are mirrored, picture and mask, which sounds alike."""
        segmenter, device = self.loaded.model.segmenter, self.loaded.device
        read = [{name: tensor[index] for name, tensor in examples.tensors.items()} for examples, index in rows]

        def stacked(name: str) -> Tensor:
            images = [row[name].flip(-1) if flip else row[name] for row, flip in zip(read, mirrored, strict=True)]
            return torch.stack(images).to(device).float()

        return Inputs(
            images=segmenter.inputs({name: stacked(name) for name in rows[0][0].images}),
            v=torch.stack([row["v"][int(flip)] for row, flip in zip(read, mirrored, strict=True)]).to(device),
            a=torch.stack([row["a"] for row in read]).to(device),
            target=stacked("target"),
        )


def _pace(step: int, steps: int) -> float:
    """Of the learning rate: a short rise, then half a cosine."""
    return min(1.0, (step + 1) / 10) * (0.01 + 0.99 * 0.5 * (1 + cos(pi * step / steps)))


LEAST = 3
"""A name needs so many keyframes."""

Labelled = Sequence[tuple[Tensor, frozenset[str]]]
"""Embeddings (width,), each with the labels of what is heard, or seen, in it."""


def learnable(names: Sequence[str], sounds: Labelled) -> tuple[str, ...]:
    """Those of the names that are heard often enough, in their order."""
    counts = Counter(name for _, heard in sounds for name in heard)
    return tuple(name for name in names if counts[name] >= LEAST)


def fit_names(names: Sequence[str], sounds: Labelled, things: Labelled, replay: Replay | None) -> dict[str, Tensor]:
    """LearnedNamer's tensors, for a model that knows its own names alone: lines on the embeddings of sounds and things.

    The replay holds examples of no name. At least one name.
    """
    tensors: dict[str, Tensor] = {}
    for kind, labelled, known in (
        ("hearing", sounds, replay.a if replay else ()),
        ("seeing", things, replay.v if replay else ()),
    ):
        examples = [*labelled, *((each, frozenset[str]()) for each in known)]
        x = F.normalize(torch.stack([embedding for embedding, _ in examples]).double(), dim=-1)
        y = torch.tensor([[name in said for name in names] for _, said in examples], dtype=x.dtype)
        # A name's examples weigh as much as all others.
        weight = torch.where(y > 0, 0.5 / y.sum(dim=0).clamp(min=1), 0.5 / (1 - y).sum(dim=0).clamp(min=1))
        lines = fit_lines(x, y, 0.0002, weight).float()  # a small decay, for few examples leave much open
        tensors |= {f"{kind}.weight": lines[:, :-1].contiguous(), f"{kind}.bias": lines[:, -1].contiguous()}
    return tensors
