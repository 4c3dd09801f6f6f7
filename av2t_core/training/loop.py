"""The loop of every training: epochs of steps, with a log and checkpoints, resumed where it was interrupted."""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from av2t_core.training.run_folder import Entry, Position


class Stateful(Protocol):
    """An optimiser, a schedule of learning rates, and the like."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> object: ...


class Learner(Protocol):
    """What learns in a loop. A checkpoint holds both mappings, by name; a resume changes their values in place."""

    learned: Mapping[str, Tensor]
    states: Mapping[str, Stateful]

    def learn(self, epoch: int, first: int) -> Generator[Entry]:
        """The steps of an epoch from `first`, both counted from 0: each yields its "loss", and with it "bce" and "iou",
        where it is the paper's.

        What it draws depends on the number of the step alone, so that an interruption changes nothing.
        """

    def end_epoch(self, position: Position) -> Entry | None:
        """What the log says of the epoch, whose steps are all done."""


class Record(Protocol):
    """Where a loop is recorded; see RunFolder."""

    def load(self) -> dict[str, Any] | None: ...
    def save(self, position: Position, learned: Mapping[str, Tensor], **states: Any) -> None: ...
    def log(self, entry: Entry) -> None: ...
    def forget_after(self, position: Position) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """After a step: `step` of `steps` in all, what it yielded, and the mean loss of its epoch so far."""

    step: int
    steps: int
    epoch: int  # counted from 1
    epochs: int
    entry: Entry
    mean_loss: float

    @property
    def loss(self) -> float:
        return float(self.entry["loss"])


class Loop:
    """Resumes from the last checkpoint of `record`, and gives what an uninterrupted loop gives."""

    def __init__(
        self, learner: Learner, record: Record, *, epochs: int, steps: int, checkpoint_steps: int | None = None
    ) -> None:
        """`steps`: of an epoch, after each of which there is a checkpoint; `checkpoint_steps`: between two more."""
        self.learner, self.record = learner, record
        self.epochs, self.steps, self.checkpoint_steps = epochs, steps, checkpoint_steps
        state = record.load()
        self.position: Position = state["position"] if state else Position()
        record.forget_after(self.position)
        if state is not None:
            with torch.no_grad():
                for name, tensor in state["trained"].items():
                    learner.learned[name].copy_(tensor)
            for name, stateful in learner.states.items():
                stateful.load_state_dict(state[name])

    @property
    def done(self) -> int:
        """Steps, of all epochs."""
        return self.position.epoch * self.steps + self.position.step

    def run(self) -> Generator[Progress]:
        """Every step that is left. Closing the generator saves a checkpoint."""
        position = self.position
        try:
            while position.epoch < self.epochs:
                epoch = position.epoch + 1
                with closing(self.learner.learn(position.epoch, position.step)) as steps:
                    for entry in steps:
                        position.count(entry)
                        self.record.log({"epoch": epoch, "step": position.step, **entry})
                        if self.checkpoint_steps and position.step % self.checkpoint_steps == 0:
                            self._save()
                        yield Progress(
                            step=self.done,
                            steps=self.steps * self.epochs,
                            epoch=epoch,
                            epochs=self.epochs,
                            entry=entry,
                            mean_loss=position.loss,
                        )
                if summary := self.learner.end_epoch(position):
                    self.record.log({"epoch": epoch, **summary})
                position.end_epoch()
                self._save()
        except GeneratorExit:
            self._save()
            raise

    def _save(self) -> None:
        states = {name: stateful.state_dict() for name, stateful in self.learner.states.items()}
        self.record.save(self.position, self.learner.learned, **states)
