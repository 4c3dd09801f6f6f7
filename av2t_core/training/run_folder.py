"""The folder of one training: what was asked for, how far it is, and what it has learned.

run.json           what was asked for; another training does not go on here
checkpoint.pt      where it goes on after an interruption
best.safetensors   what was trained, as of the epoch with the best validation IoU
log.jsonl          a line for every step and every epoch
tensorboard/       the same as curves
curve.png          the learning curve, drawn at the end
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors.torch import load_file, save_file
from torch import Tensor

from av2t_core.files import atomic_file, locked, writing
from av2t_core.training.plan import TrainingError

Entry = dict[str, Any]


@dataclass(kw_only=True)
class Position:
    """How far a training is: `epoch` of them are done, and `step` batches of the next one, with these mean losses."""

    epoch: int = 0
    step: int = 0
    bce: float = 0.0
    iou: float = 0.0
    best_epoch: int = 0  # counted from 1; 0 before the first validation
    best_miou: float = -1.0


class RunFolder:
    """Everything in it is written aside and renamed, so that a kill leaves the last whole state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def alone(self, plan: Mapping[str, Any]) -> Iterator[None]:
        """Within it no other process trains here. TrainingError: one does, or the folder is of another plan."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = locked(self.path / ".lock", wait=False)
            except BlockingIOError:
                raise TrainingError(f"another training is at work in {self.path}: wait until it has ended") from None
        with lock:
            self._claim(json.loads(json.dumps(plan)))
            yield

    def save(self, position: Position, trained: Mapping[str, Tensor], **states: Any) -> None:
        """`states`: state dicts of the optimiser and its schedule."""
        # Into a file of Python's own: PyTorch's does not say why it cannot be written.
        with writing(self.path), atomic_file(self.path / "checkpoint.pt") as aside, aside.open("wb") as file:
            torch.save({"position": asdict(position), "trained": dict(trained), **states}, file)

    def load(self) -> dict[str, Any] | None:
        """What `save` kept, on the host, with `position` as a Position; None at the beginning."""
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return {**state, "position": Position(**state["position"])}

    def keep_best(self, trained: Mapping[str, Tensor]) -> None:
        with writing(self.path), atomic_file(self.path / "best.safetensors") as aside:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()}, aside)

    def best(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = load_file(self.path / "best.safetensors")
        return state

    def log(self, entry: Entry) -> None:
        with writing(self.path), (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[Entry]:
        """All of the log. A last line that a kill cut off is left out."""
        path = self.path / "log.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def forget_after(self, position: Position) -> None:
        """Take out of the log what comes after `position`, for it is going to happen again."""
        kept = [entry for entry in self.entries() if _is_before(entry, position)]
        with writing(self.path), atomic_file(self.path / "log.jsonl") as aside:
            aside.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def _claim(self, plan: Entry) -> None:
        path = self.path / "run.json"
        if not path.exists():
            with writing(self.path), atomic_file(path) as aside:
                aside.write_text(json.dumps(plan, indent=2) + "\n")
            return
        there = json.loads(path.read_text())
        differing = [
            f"{key} {there.get(key)!r}, now {value!r}" for key, value in plan.items() if there.get(key) != value
        ]
        if differing:
            raise TrainingError(
                f"{self.path} holds a training that was asked for otherwise ({'; '.join(differing)}): repeat that"
                " command to go on with it, or choose another name"
            )


def _is_before(entry: Entry, position: Position) -> bool:
    within = (position.epoch + 1, position.step)
    return bool(entry["epoch"] <= position.epoch or (entry["epoch"], entry.get("step", within[1] + 1)) <= within)


def draw_curve(entries: Sequence[Entry], title: str, out: Path) -> None:
    """Loss and validation IoU over the epochs, from the entries of a log that are of epochs."""
    epochs = [entry for entry in entries if "val_miou" in entry]
    numbers = [entry["epoch"] for entry in epochs]
    ious = [entry["val_miou"] for entry in epochs]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    losses = [entry["loss"] for entry in epochs]
    [loss] = left.plot(numbers, losses, color="tab:gray", marker=".", label="training loss")
    best = max(range(len(epochs)), key=ious.__getitem__)
    told = f"validation mIoU, best {ious[best]:.3f} in epoch {numbers[best]}"
    [iou] = right.plot(numbers, ious, color="tab:blue", marker=".", label=told)
    left.set(xlabel="epoch", ylabel="loss (cross-entropy + 1 - soft IoU)", title=title, ylim=(0, None))
    right.set(ylabel="mIoU", ylim=(0, 1))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    left.legend(handles=[loss, iou], loc="lower left")
    figure.savefig(out, dpi=120)
