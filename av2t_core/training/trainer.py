"""The paper's training on a data set: epochs of batches, a validation after each; it goes on after an interruption."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter

from av2t_core.ahead import read_ahead
from av2t_core.data.avsbench import LabelledClip
from av2t_core.evaluation.metrics import avsbench_iou
from av2t_core.memory import device_peak, resident_peak, start_peaks
from av2t_core.segmenters.recomputing import recompute_blocks
from av2t_core.training.batches import Part, Read, batches, inputs, read, read_parts
from av2t_core.training.frozen import Frozen, FrozenResults
from av2t_core.training.paper import PaperTraining, trained_parameters
from av2t_core.training.plan import PaperRecipe
from av2t_core.training.replay import Replay
from av2t_core.training.run_folder import Entry, Position, RunFolder, draw_curve
from av2t_core.training.tensor_store import TensorStore
from av2t_core.versions.checkpoint import Loaded

Bar = Callable[[str, int | None, str], Any]
"""What is done, how much of it there is, in which unit: to a tqdm bar."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a training runs, which does not change what it gives.

    `parts`: of a batch, that go through the model one after the other (gradient accumulation), for each process.
    `recompute`: the two encoders' blocks keep their inputs alone and compute the rest again for the gradients.
    """

    parts: int = 1
    recompute: bool = False
    checkpoint_steps: int = 50


class Trainer:
    """One of the processes of a training. Only the first one writes and speaks."""

    def __init__(
        self,
        loaded: Loaded,
        training: Sequence[LabelledClip],
        validation: Sequence[LabelledClip],
        *,
        recipe: PaperRecipe,
        schedule: Schedule,
        folder: RunFolder,
        store: TensorStore | None,
        accelerator: Accelerator,
        bar: Bar,
        say: Callable[[str], None],
    ) -> None:
        self.loaded, self.recipe, self.schedule = loaded, recipe, schedule
        self.clips, self.validation = training, validation
        self.folder, self.accelerator, self.bar, self.say = folder, accelerator, bar, say
        if schedule.recompute:
            recompute_blocks(loaded.model)
        self.learning = PaperTraining(loaded.model, recipe, accelerator, bf16=loaded.precision == "bf16")
        self.results = FrozenResults(loaded, store)
        self.steps = ceil(len(training) / recipe.batch)

    @property
    def _speaks(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def run(self) -> Position:
        """All that is left of the training. TrainingError, DataError: see PaperTraining.learn and batches.read."""
        position = self._go_on()
        self._fill()
        curves = self._curves(position)
        try:
            while position.epoch < self.recipe.epochs:
                began = time.monotonic()
                start_peaks(self.loaded.device)
                self._learn(position, curves)
                entry = self._entry(position, self._validate(), time.monotonic() - began)
                self.learning.end_epoch()
                self._end_epoch(position, entry, curves)
        finally:
            if curves is not None:
                curves.close()
        if self._speaks:
            draw_curve(self.folder.entries(), self.folder.path.name, self.folder.path / "curve.png")
        return position

    def some_embeddings(self, windows: int) -> Replay:
        """Of about so many of the training clips' frames, for trainings that start from this one; always the same."""
        found: list[Frozen] = []
        for index in np.random.default_rng(self.recipe.seed).permutation(len(self.clips)):
            clip = self.clips[index]
            frozen = self.results.stored(clip)
            if frozen is None:
                one = read(clip, self.results)
                frozen = self.results.compute(clip, one.images, one.sounds)
            found.append(frozen)
            if sum(len(each.a) for each in found) >= windows:
                break
        return Replay(v=torch.cat([each.v.cpu() for each in found]), a=torch.cat([each.a.cpu() for each in found]))

    def _go_on(self) -> Position:
        state = self.folder.load()
        self.accelerator.wait_for_everyone()  # before the first process writes the next one
        position: Position = state["position"] if state else Position()
        if self._speaks:
            self.folder.forget_after(position)
        if state is None:
            return position
        parameters = trained_parameters(self.loaded.model)
        with torch.no_grad():
            for name, tensor in state["trained"].items():
                parameters[name].copy_(tensor)
        self.learning.optimiser.load_state_dict(state["optimiser"])
        self.learning.schedule.load_state_dict(state["schedule"])
        if position.epoch < self.recipe.epochs:
            self.say(f"going on in epoch {position.epoch + 1} of {self.recipe.epochs}, after {position.step} batches")
        return position

    def _fill(self) -> None:
        """Compute and keep what is frozen; each process a share of it, which all can read afterwards."""
        if self.results.store is not None:
            missing = [clip for clip in self._own([*self.clips, *self.validation]) if not self.results.kept(clip)]
            with (
                self.bar("frozen results", len(missing), "clips") as bar,
                self._reading([(c,) for c in missing]) as parts,
            ):
                for [one] in parts:
                    if self.results.store.full:
                        break
                    if one.frozen is None:  # or another training has kept it meanwhile
                        self.results.compute(one.clip, one.images, one.sounds)
                    bar.update()
        self.accelerator.wait_for_everyone()

    def _learn(self, position: Position, curves: SummaryWriter | None) -> None:
        """The batches of an epoch that are left."""
        recipe, accelerator = self.recipe, self.accelerator
        shares = batches(
            self.clips,
            position.epoch,
            size=recipe.batch,
            seed=recipe.seed,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            parts=self.schedule.parts,
        )[position.step :]
        name = f"epoch {position.epoch + 1} of {recipe.epochs}"
        with (
            self.bar(name, len(shares), "batches") as bar,
            self._reading([part for share in shares for part in share.parts]) as parts,
        ):
            for share in shares:
                mine = (inputs(next(parts), self.results, counts=share.counts) for _ in share.parts)
                step = self.learning.learn(mine, len(share.parts), share.frames)
                position.step += 1
                position.bce += (step.bce - position.bce) / position.step
                position.iou += (step.iou - position.iou) / position.step
                entry = {"epoch": position.epoch + 1, "step": position.step, "loss": step.loss, **asdict(step)}
                if self._speaks:
                    self.folder.log(entry)
                if curves is not None:
                    done = position.epoch * self.steps + position.step
                    curves.add_scalar("loss/step", step.loss, done)
                    curves.add_scalar("gradient", step.gradient, done)
                bar.set_description(f"{name}, loss {position.bce + position.iou:.3f}")
                bar.update()
                if position.step % self.schedule.checkpoint_steps == 0:
                    self._save(position)

    @torch.no_grad()
    def _validate(self) -> float:
        """AVSBench's IoU on the validation clips."""
        own = self._own(self.validation)
        size = ceil(self.recipe.batch / self.accelerator.num_processes / self.schedule.parts)
        total = torch.zeros(2, dtype=torch.float64, device=self.loaded.device)
        parts = [tuple(own[first : first + size]) for first in range(0, len(own), size)]
        with self.bar("validating", len(own), "clips") as bar, self._reading(parts) as reads:
            for part in reads:
                given = inputs(part, self.results)
                ious = avsbench_iou(self.learning.logits(given), given.target)
                total += torch.stack([ious.sum(), ious.new_tensor(len(ious))])
                bar.update(len(part))
        iou, frames = self.accelerator.reduce(total, reduction="sum").tolist()
        return float(iou / frames)

    def _end_epoch(self, position: Position, entry: Entry, curves: SummaryWriter | None) -> None:
        number, miou = entry["epoch"], entry["val_miou"]
        if miou > position.best_miou:
            position.best_epoch, position.best_miou = number, miou
            if self._speaks:
                self.folder.keep_best(trained_parameters(self.loaded.model))
        if self._speaks:
            self.folder.log(entry)
        if curves is not None:
            curves.add_scalar("loss/epoch", entry["loss"], number)
            curves.add_scalar("mIoU/validation", miou, number)
        self.say(
            f"epoch {number} of {self.recipe.epochs}: loss {entry['loss']:.4f}, validation mIoU {miou:.4f}"
            f" (best {position.best_miou:.4f}, epoch {position.best_epoch}), {entry['seconds']:.0f} s"
        )
        position.epoch, position.step, position.bce, position.iou = number, 0, 0.0, 0.0
        self._save(position)

    def _entry(self, position: Position, miou: float, seconds: float) -> Entry:
        on_device = device_peak(self.loaded.device)
        return {
            "epoch": position.epoch + 1,
            "loss": position.bce + position.iou,
            "bce": position.bce,
            "iou": position.iou,
            "val_miou": miou,
            "lr": self.learning.lr,
            "seconds": round(seconds, 2),
            "host_peak_mb": round(resident_peak() / 1e6),
            "gpu_peak_mb": on_device and round(on_device / 1e6),
        }

    def _save(self, position: Position) -> None:
        if self._speaks:
            self.folder.save(
                position,
                trained_parameters(self.loaded.model),
                optimiser=self.learning.optimiser.state_dict(),
                schedule=self.learning.schedule.state_dict(),
            )

    def _own(self, clips: Sequence[LabelledClip]) -> Sequence[LabelledClip]:
        return clips[self.accelerator.process_index :: self.accelerator.num_processes]

    def _reading(self, parts: Sequence[Part]) -> "closing[Generator[list[Read]]]":
        """The parts in their order, read from disk while the model is at the one before."""
        return closing(read_ahead(read_parts(parts, self.results)))

    def _curves(self, position: Position) -> SummaryWriter | None:
        if not self._speaks:
            return None
        done = position.epoch * self.steps + position.step
        return SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=done + 1)
