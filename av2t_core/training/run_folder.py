"""The folder of one training: its plan, its checkpoint, its log, and the best of what it has learned.

run.json           the plan; a training by another plan does not resume here
checkpoint.pt      where it resumes after an interruption
best.safetensors   what was trained, as of the epoch with the best validation IoU
log.jsonl          a line for every step and every epoch
tensorboard/       the same as curves
curve.png          the learning curve, drawn at the end
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
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

    @property
    def loss(self) -> float:
        return self.bce + self.iou

    def count(self, step: Entry) -> None:
        """A step is done, with these losses; the means are of the paper's alone."""
        self.step += 1
        self.bce += (step.get("bce", 0.0) - self.bce) / self.step
        self.iou += (step.get("iou", 0.0) - self.iou) / self.step

    def end_epoch(self) -> None:
        self.epoch, self.step, self.bce, self.iou = self.epoch + 1, 0, 0.0, 0.0


class RunFolder:
    """Its files are written aside and renamed, so that a kill leaves the last whole state."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """`writes`: False in all processes of a training but the first; they only read."""
        self.path, self.writes = path, writes

    @contextmanager
    def alone(self, plan: Mapping[str, Any]) -> Iterator[None]:
        """Within it no other process trains here. TrainingError: one does, or the folder is of another plan."""
        if not self.writes:
            yield
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = locked(self.path / ".lock", wait=False)
            except BlockingIOError:
                raise TrainingError(f"another training is at work in {self.path}: wait until it has ended") from None
        with lock:
            self._claim(json.loads(json.dumps(plan)))
            yield

    def save(self, position: Position, learned: Mapping[str, Tensor], **states: Any) -> None:
        """`states`: state dicts of the optimiser and its schedule."""
        tensors = {name: tensor.detach() for name, tensor in learned.items()}
        if self.writes:
            # Into a file of Python's own: PyTorch's does not say why it cannot be written.
            with writing(self.path), atomic_file(self.path / "checkpoint.pt") as aside, aside.open("wb") as file:
                torch.save({"position": asdict(position), "trained": tensors, **states}, file)

    def load(self) -> dict[str, Any] | None:
        """What `save` wrote, on the host, with `position` as a Position; None at the beginning."""
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return {**state, "position": Position(**state["position"])}

    def keep_best(self, learned: Mapping[str, Tensor]) -> None:
        if self.writes:
            with writing(self.path), atomic_file(self.path / "best.safetensors") as aside:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}, aside)

    def best(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = load_file(self.path / "best.safetensors")
        return state

    def log(self, entry: Entry) -> None:
        if self.writes:
            with writing(self.path), (self.path / "log.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[Entry]:
        """All of the log. A last line that a kill cut off is left out."""
        path = self.path / "log.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def forget_after(self, position: Position) -> None:
        """Take out of the log what comes after `position`, for it is going to happen again."""
        next_step = (position.epoch + 1, position.step + 1)
        lines = [
            json.dumps(entry) + "\n"
            for entry in self.entries()
            if entry["epoch"] <= position.epoch or (entry["epoch"], entry.get("step", next_step[1])) < next_step
        ]
        if self.writes:
            with writing(self.path), atomic_file(self.path / "log.jsonl") as aside:
                aside.write_text("".join(lines))

    def draw_curve(self) -> None:
        """Loss and validation IoU over the epochs."""
        from matplotlib.figure import Figure  # which a fine-tuning does not need
        from matplotlib.ticker import MaxNLocator

        epochs = [entry for entry in self.entries() if "val_miou" in entry]
        numbers, losses, ious = ([entry[key] for entry in epochs] for key in ("epoch", "loss", "val_miou"))
        best = ious.index(max(ious))
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        left = figure.subplots()
        right = left.twinx()
        [loss] = left.plot(numbers, losses, color="tab:gray", marker=".", label="training loss")
        label = f"validation mIoU, best {ious[best]:.3f} in epoch {numbers[best]}"
        [iou] = right.plot(numbers, ious, color="tab:blue", marker=".", label=label)
        left.set(xlabel="epoch", ylabel="loss (cross-entropy + 1 - soft IoU)", title=self.path.name, ylim=(0, None))
        right.set(ylabel="mIoU", ylim=(0, 1))
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.grid(alpha=0.3)
        left.legend(handles=[loss, iou], loc="lower left")
        figure.savefig(self.path / "curve.png", dpi=120)

    def _claim(self, plan: Entry) -> None:
        path = self.path / "run.json"
        if not path.exists():
            with writing(self.path), atomic_file(path) as aside:
                aside.write_text(json.dumps(plan, indent=2) + "\n")
        there = json.loads(path.read_text())
        if differing := [
            f"{key} {there.get(key)!r}, now {new!r}" for key, new in plan.items() if there.get(key) != new
        ]:
            raise TrainingError(
                f"{self.path} holds a training by another plan ({'; '.join(differing)}): repeat that command to go on"
                " with it, or choose another name"
            )
