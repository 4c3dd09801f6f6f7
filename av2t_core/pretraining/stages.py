"""A stage of the recipe of `tiny`: several processes share the gradients of its training, and one writes its result."""

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

from av2t_core.files import atomic_file
from av2t_core.prediction.predictor import computes_bf16
from av2t_core.training.loop import Loop, Stateful
from av2t_core.training.run_folder import Entry, Position

Loss = Callable[[np.random.Generator], Tensor]
Groups = Sequence[dict[str, Any]]
_LOGGED_STEPS = 50


class StagesFolder:
    """OUT/<name>.pt is the result of a stage, tensors by name; log.jsonl has the losses of all stages."""

    def __init__(self, out: Path, *, seed: int, checkpoint_steps: int) -> None:
        self.out, self.seed, self.checkpoint_steps = out, seed, checkpoint_steps

    def fit(self, name: str, model: nn.Module, loss: Loss, groups: Groups, steps: int) -> None:
        """Train a stage, unless it has its result: the average of the weights (EMA)."""
        done = (self.out / f"{name}.pt").exists()
        distributed.barrier()  # or a process that comes late could take the others' result for an earlier run's
        if done:
            return
        stage = _Stage(self, name, model, loss, groups, steps)
        loop = Loop(stage, stage, epochs=1, steps=steps, checkpoint_steps=self.checkpoint_steps)
        bar = tqdm(loop.run(), name, initial=loop.done, total=steps, mininterval=5, disable=distributed.get_rank() > 0)
        for _ in bar:
            bar.set_postfix(loss=f"{stage.smoothed:.4f}", refresh=False)
        self.keep(f"{name}.pt", **stage.average.state_dict())
        stage.checkpoint.unlink(missing_ok=True)

    def result(self, name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = torch.load(self.out / f"{name}.pt", weights_only=True)
        return state

    def keep(self, name: str, **state: Any) -> None:
        """Written aside by the first process and renamed, so that a kill never leaves half a file."""
        if distributed.get_rank() == 0:
            with atomic_file(self.out / name) as aside:
                torch.save(state, aside)
        distributed.barrier()


class _Stage:
    """The Learner of a stage, AdamW with a short warm-up and a cosine, and the Record of its loop.

    OUT/<name>.checkpoint, and every so many steps a line of the log with the smoothed loss.
    """

    def __init__(
        self, folder: StagesFolder, name: str, model: nn.Module, loss: Loss, groups: Groups, steps: int
    ) -> None:
        self.folder, self.name, self.model, self.loss, self.count = folder, name, model, loss, steps
        self.checkpoint, self.smoothed = folder.out / f"{name}.checkpoint", math.nan
        self.average = deepcopy(model)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: _cosine(step, steps))
        self.learned: Mapping[str, Tensor] = model.state_dict()
        self.states: Mapping[str, Stateful] = {
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "average": self.average,
        }

    def learn(self, epoch: int, first: int) -> Generator[Entry]:
        self.model.train()
        for step in range(first, self.count):
            value = self._step(step)
            decay = min(0.999, (step + 1) / (step + 10))
            for name, average in self.average.state_dict().items():
                if average.is_floating_point():
                    average.lerp_(self.learned[name], 1 - decay)
                else:
                    average.copy_(self.learned[name])
            yield {"loss": value}

    def end_epoch(self, position: Position) -> None:
        """Nothing is logged."""

    def _step(self, step: int) -> float:
        rank, seed = distributed.get_rank(), self.folder.seed
        torch.manual_seed(seed * 1_000_003 + distributed.get_world_size() * step + rank)
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16(torch.device("cpu"))):
            loss = self.loss(np.random.default_rng([seed, step, crc32(self.name.encode()), rank]))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of stage {self.name} is {loss.item()} at step {step}")
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        _share_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        return loss.item()

    def load(self) -> dict[str, Any] | None:
        if not self.checkpoint.exists():
            return None
        state = torch.load(self.checkpoint, weights_only=True)
        return {**state, "trained": state["model"], "position": Position(step=state["step"])}

    def save(self, position: Position, learned: Mapping[str, Tensor], **states: Any) -> None:
        if position.step:  # at the end the result follows
            self.folder.keep(self.checkpoint.name, model=dict(learned), step=position.step, **states)

    def log(self, entry: Entry) -> None:
        self.smoothed = entry["loss"] if math.isnan(self.smoothed) else 0.98 * self.smoothed + 0.02 * entry["loss"]
        if distributed.get_rank() == 0 and entry["step"] % _LOGGED_STEPS == 0:
            line = {"stage": self.name, "step": entry["step"], "loss": round(self.smoothed, 5)}
            with (self.folder.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")

    def forget_after(self, position: Position) -> None:
        """The log only grows."""


def _cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def _share_gradients(model: nn.Module) -> None:
    """Every process goes on with the mean of all gradients."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = nn.utils.parameters_to_vector(gradients)
    distributed.all_reduce(flat)
    nn.utils.vector_to_parameters(flat / distributed.get_world_size(), gradients)
