"""The paper's training on a data set: epochs of batches, and a validation after each."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from av2t_core.ahead import read_ahead
from av2t_core.data.avsbench import LabelledClip
from av2t_core.evaluation.metrics import avsbench_iou
from av2t_core.memory import device_peak, resident_peak, start_peaks
from av2t_core.training.batches import Part, Read, batches, inputs, read, read_parts
from av2t_core.training.frozen import Frozen, FrozenResults
from av2t_core.training.loop import Loop, Stateful
from av2t_core.training.paper import PaperTraining
from av2t_core.training.plan import PaperRecipe
from av2t_core.training.replay import Replay
from av2t_core.training.run_folder import Entry, Position, RunFolder
from av2t_core.training.tensor_store import TensorStore
from av2t_core.versions.checkpoint import Loaded

Bar = Callable[[str, int | None, str], Any]
"""What is done, how much of it there is, in which unit: to a tqdm bar."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a training runs, which does not change its result.

    `parts`: of a batch, that go through the model one after the other (gradient accumulation), for each process.
    `recompute`: the two encoders' blocks keep their inputs alone and compute the rest again for the gradients.
    """

    parts: int = 1
    recompute: bool = False
    checkpoint_steps: int = 50


class Trainer:
    """One of the processes of a training, and the Learner of its loop. Only the first one writes and speaks."""

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
            loaded.model.recompute()
        self.paper = PaperTraining(loaded.model, recipe, accelerator, bf16=loaded.precision == "bf16")
        self.results = FrozenResults(loaded, store)
        self._curves: SummaryWriter | None = None

    @property
    def learned(self) -> Mapping[str, Tensor]:
        return self.paper.learned

    @property
    def states(self) -> Mapping[str, Stateful]:
        return {"optimiser": self.paper.optimiser, "schedule": self.paper.schedule}

    def run(self) -> Position:
        """All that is left of the training. TrainingError, DataError: see PaperTraining.learn and batches.read."""
        loop = Loop(
            self,
            self.folder,
            epochs=self.recipe.epochs,
            steps=ceil(len(self.clips) / self.recipe.batch),
            checkpoint_steps=self.schedule.checkpoint_steps,
        )
        self.accelerator.wait_for_everyone()  # before the first process writes the next checkpoint
        if 0 < loop.done < loop.epochs * loop.steps:
            self.say(
                f"going on in epoch {loop.position.epoch + 1} of {loop.epochs}, after {loop.position.step} batches"
            )
        self._fill()
        if self.folder.writes:
            self._curves = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=loop.done + 1)
        try:
            with closing(loop.run()) as steps:
                for at in steps:
                    self._bar.set_description(f"epoch {at.epoch} of {at.epochs}, loss {at.mean_loss:.3f}")
                    self._bar.update()
                    self._draw(at.step, {"loss/step": at.loss, "gradient": at.entry["gradient"]})
        finally:
            if self._curves is not None:
                self._curves.close()
        if self.folder.writes:
            self.folder.draw_curve()
        return loop.position

    def learn(self, epoch: int, first: int) -> Generator[Entry]:
        """The batches of an epoch that are left."""
        self._began = time.monotonic()
        start_peaks(self.loaded.device)
        shares = batches(
            self.clips,
            epoch,
            size=self.recipe.batch,
            seed=self.recipe.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            parts=self.schedule.parts,
        )[first:]
        with (
            self.bar(f"epoch {epoch + 1} of {self.recipe.epochs}", len(shares), "batches") as self._bar,
            self._reading([part for share in shares for part in share.parts]) as parts,
        ):
            for share in shares:
                mine = (inputs(next(parts), self.results, counts=share.counts) for _ in share.parts)
                step = self.paper.learn(mine, len(share.parts), share.frames)
                yield {"loss": step.loss, **asdict(step)}

    def end_epoch(self, position: Position) -> Entry:
        """Validate; the weights are the best ones so far, or not."""
        number, miou = position.epoch + 1, self._validate()
        if miou > position.best_miou:
            position.best_epoch, position.best_miou = number, miou
            self.folder.keep_best(self.learned)
        seconds, on_device = time.monotonic() - self._began, device_peak(self.loaded.device)
        self._draw(number, {"loss/epoch": position.loss, "mIoU/validation": miou})
        self.say(
            f"epoch {number} of {self.recipe.epochs}: loss {position.loss:.4f}, validation mIoU {miou:.4f}"
            f" (best {position.best_miou:.4f}, epoch {position.best_epoch}), {seconds:.0f} s"
        )
        entry = {
            "loss": position.loss,
            "bce": position.bce,
            "iou": position.iou,
            "val_miou": miou,
            "lr": self.paper.lr,
            "seconds": round(seconds, 2),
            "host_peak_mb": round(resident_peak() / 1e6),
            "gpu_peak_mb": on_device and round(on_device / 1e6),
        }
        self.paper.end_epoch()
        return entry

    def some_embeddings(self, windows: int) -> Replay:
        """Of about so many of the training clips' frames, for trainings that start from this one; always the same."""
        found: list[Frozen] = []
        for index in np.random.default_rng(self.recipe.seed).permutation(len(self.clips)):
            one = read(self.clips[index], self.results)
            found.append(one.frozen or self.results.compute(one.clip, one.images, one.sounds))
            if sum(len(each.a) for each in found) >= windows:
                break
        return Replay(v=torch.cat([each.v.cpu() for each in found]), a=torch.cat([each.a.cpu() for each in found]))

    def _fill(self) -> None:
        """Compute and cache what is frozen; each process a share of it, which all can read afterwards."""
        if self.results.store is not None:
            missing = [clip for clip in self._own([*self.clips, *self.validation]) if not self.results.kept(clip)]
            with (
                self.bar("frozen results", len(missing), "clips") as bar,
                self._reading([(clip,) for clip in missing]) as parts,
            ):
                for [one] in parts:
                    if self.results.store.full:
                        break
                    if one.frozen is None:  # or another training has cached it meanwhile
                        self.results.compute(one.clip, one.images, one.sounds)
                    bar.update()
        self.accelerator.wait_for_everyone()

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
                ious = avsbench_iou(self.paper.objective.logits(given), given.target)
                total += torch.stack([ious.sum(), ious.new_tensor(len(ious))])
                bar.update(len(part))
        iou, frames = self.accelerator.reduce(total, reduction="sum").tolist()
        return float(iou / frames)

    def _own(self, clips: Sequence[LabelledClip]) -> Sequence[LabelledClip]:
        return clips[self.accelerator.process_index :: self.accelerator.num_processes]

    def _reading(self, parts: Sequence[Part]) -> "closing[Generator[list[Read]]]":
        """The parts in their order, read from disk while the model is at the one before."""
        return closing(read_ahead(read_parts(parts, self.results)))

    def _draw(self, number: int, values: Mapping[str, float]) -> None:
        if self._curves is not None:
            for name, value in values.items():
                self._curves.add_scalar(name, value, number)
