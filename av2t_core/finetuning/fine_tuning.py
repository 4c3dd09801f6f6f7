"""Fine-tuning on what people corrected: the paper's loss and optimiser, with settings fit for tens of clips.

The projector and the adapters learn, and people's names for things; all that the model knows of pictures, sounds and
edges is frozen. A replay of what the model learned before holds them to what they said of it, so that it is not
forgotten.

Where a finder says what the segmenter is asked for, they learn what to add to its prompts: they begin with the masks
that names give, and learn each thing by itself.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from av2t_core.errors import MemoryShortError
from av2t_core.evaluation.reliability import fit_lines
from av2t_core.finetuning.examples import ClipExamples, Row
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

JITTER = 0.2
"""How far the sides of a box may be off, as a share of its own, by which a thing is asked for that is learned."""

_LEAST_EPOCHS = 3


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
        own: Sequence[ClipExamples],
        replay: Replay | None,
        recipe: FineTuneRecipe,
        folder: RunFolder,
        *,
        at_once: int | None = None,
    ) -> None:
        """`own`: one row or more. `replay`: None where the model has none.

        `at_once`: rows that go through the model together, None for the whole batch. It changes nothing but the
        memory, and is halved whenever it proves too large.
        """
        self.loaded, self.recipe, self.folder = loaded, recipe, folder
        self.at_once = at_once or recipe.batch
        if recipe.batch * loaded.model.segmenter.image_size**2 > PIXELS_KEPT:
            loaded.model.recompute()
        self._own = [row for clip in own for row in clip.rows(apart=loaded.finder is not None)]
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
            draw = np.random.default_rng([recipe.seed, done])
            mirrored = draw.random(len(rows)) < 0.5
            jitter = draw.uniform(-JITTER, JITTER, (len(rows), 4))
            for group in self.optimiser.param_groups:
                group["lr"] = recipe.lr * _pace(done, self.steps)
            while (losses := self._gradients(rows, mirrored, jitter)) is None:
                self.at_once = max(1, self.at_once // 2)
            if not losses.isfinite().all():
                raise TrainingError(f"the loss is {losses.tolist()} in step {done + 1}: look at the annotations' clips")
            self.optimiser.step()
            bce, iou = losses.tolist()
            yield {"bce": bce, "iou": iou, "loss": bce + iou}

    def end_epoch(self, position: Position) -> Entry:
        return {"loss": position.loss}

    def _gradients(
        self, rows: Sequence[Row], mirrored: NDArray[np.bool_], jitter: NDArray[np.float64]
    ) -> Tensor | None:
        """Those of a batch in place of any earlier ones; its losses (2,), None where the memory does not suffice."""
        self.optimiser.zero_grad()
        total = torch.zeros(2)
        try:
            for first in range(0, len(rows), self.at_once):
                some = slice(first, first + self.at_once)
                losses = self._objective(self._inputs(rows[some], mirrored[some], jitter[some])).sum(dim=0) / len(rows)
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

    def _inputs(self, rows: Sequence[Row], mirrored: NDArray[np.bool_], jitter: NDArray[np.float64]) -> Inputs:
        """Some are mirrored, picture and mask, which sounds alike."""
        segmenter, device = self.loaded.model.segmenter, self.loaded.device
        each = list(zip(rows, mirrored, strict=True))

        def stacked(tensors: Iterable[Tensor]) -> Tensor:
            flipped = [tensor.flip(-1) if flip else tensor for tensor, flip in zip(tensors, mirrored, strict=True)]
            return torch.stack(flipped).to(device).float()

        names = rows[0].clip.keyframes.images
        target = stacked(row.target for row in rows)
        return Inputs(
            images=segmenter.inputs(
                {name: stacked(row.clip.keyframes.images[name][row.keyframe] for row in rows) for name in names}
            ),
            v=torch.stack([row.clip.keyframes.v[row.keyframe, int(flip)] for row, flip in each]).to(device),
            a=torch.stack([row.clip.keyframes.a[row.keyframe] for row in rows]).to(device),
            target=target,
            prompts=self._prompts(rows, target, jitter),
        )

    def _prompts(self, rows: Sequence[Row], target: Tensor, jitter: NDArray[np.float64]) -> Tensor | None:
        """By which a finder would ask for the things; their boxes are about as wrong as it may be."""
        finder = self.loaded.finder
        if finder is None:
            return None
        asked = []
        for row, mask, off in zip(rows, target.cpu().numpy(), jitter, strict=True):
            x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
            box = np.array([x, y, x + width, y + height]) + off * np.array([width, height, width, height])
            scale = np.array(row.clip.size[::-1]) / mask.shape[::-1]
            asked.append(finder.ask(torch.from_numpy(box * np.tile(scale, 2)).float()[None], row.clip.size))
        return torch.cat(asked)


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


def fit_names(
    names: Sequence[str], sounds: Labelled, things: Labelled, replay: Replay | None, elsewhere: Labelled = ()
) -> dict[str, Tensor]:
    """LearnedNamer's tensors, for a model that knows its own names alone: lines on the embeddings of sounds and things.

    The replay holds examples of no name. At least one name. `elsewhere`: embeddings of places that nobody labelled,
    each with what it may be all the same, for what is silent is not labelled either.
    """
    tensors: dict[str, Tensor] = {}
    for kind, labelled, known, others in (
        ("hearing", sounds, replay.a if replay else (), ()),
        ("seeing", things, replay.v if replay else (), elsewhere),
    ):
        nothing = frozenset[str]()
        examples = [*labelled, *((each, nothing) for each in known), *((each, nothing) for each, _ in others)]
        x = F.normalize(torch.stack([embedding for embedding, _ in examples]).double(), dim=-1)
        y = torch.tensor([[name in said for name in names] for _, said in examples], dtype=x.dtype)
        sure = torch.ones_like(y)
        for row, (_, doubtful) in zip(sure[len(examples) - len(others) :], others, strict=True):
            row[[name in doubtful for name in names]] = 0
        # A name's examples weigh as much as all others.
        against = (1 - y) * sure
        weight = torch.where(y > 0, 0.5 / y.sum(dim=0).clamp(min=1), 0.5 * against / against.sum(dim=0).clamp(min=1))
        lines = fit_lines(x, y, 0.0002, weight).float()  # a small decay, for few examples leave much open
        tensors |= {f"{kind}.weight": lines[:, :-1].contiguous(), f"{kind}.bias": lines[:, -1].contiguous()}
    return tensors
