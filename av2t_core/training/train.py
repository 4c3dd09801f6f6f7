"""The paper's training on a data set, from its plan to its model version: epochs of batches, each with a validation.

It starts from a version of the same segmenter and encoders: EVF-SAM for the paper's presets, the embedded model for
`tiny`. The projector and the adapters are drawn anew, whether that version has them or not: they are what the paper
trains from nothing.
"""

import gc
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from av2t_core.ahead import read_ahead
from av2t_core.data.avsbench import LabelledClip
from av2t_core.evaluation.scores import avsbench_iou
from av2t_core.memory import device_peak, resident_peak, start_peaks
from av2t_core.model.av2t_sam import DRAWN, AV2TSam
from av2t_core.model.config import Feature
from av2t_core.training.batches import Part, Read, batches, inputs, read
from av2t_core.training.frozen import Frozen, FrozenResults, TensorStore
from av2t_core.training.loop import Loop, Stateful
from av2t_core.training.paper import PaperTraining, accelerator
from av2t_core.training.plan import Plan, TrainingError
from av2t_core.training.replay import WINDOWS, Replay, keep
from av2t_core.training.run_folder import Entry, Position, RunFolder
from av2t_core.versions.checkpoint import Loaded, Precision, build, fill_version, read_tensors
from av2t_core.versions.names import REPLAY_FILE
from av2t_core.versions.saving import save_part, save_version
from av2t_core.versions.store import fetch
from av2t_core.versions.version import Version

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
        plan: Plan,
        schedule: Schedule,
        folder: RunFolder,
        store: TensorStore | None,
        accelerator: Accelerator,
        bar: Bar,
        say: Callable[[str], None],
    ) -> None:
        self.loaded, self.plan, self.recipe, self.schedule = loaded, plan, plan.recipe, schedule
        self.folder, self.accelerator, self.bar, self.say = folder, accelerator, bar, say
        if schedule.recompute:
            loaded.model.recompute()
        self.paper = PaperTraining(loaded.model, plan.recipe, accelerator, bf16=loaded.precision == "bf16")
        self.learned: Mapping[str, Tensor] = self.paper.learned
        self.states: Mapping[str, Stateful] = {"optimiser": self.paper.optimiser, "schedule": self.paper.schedule}
        self.results = FrozenResults(loaded, store)
        self._curves: SummaryWriter | None = None

    def run(self) -> Position:
        """All that is left of the training. TrainingError, DataError: see PaperTraining.learn and batches.read."""
        loop = Loop(
            self,
            self.folder,
            epochs=self.recipe.epochs,
            steps=ceil(len(self.plan.training) / self.recipe.batch),
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
        self._began = time.monotonic()
        start_peaks(self.loaded.device)
        shares = batches(
            self.plan.training,
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
                yield dict(self.paper.learn(mine, len(share.parts), share.frames))

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
            "lr": self.paper.optimiser.param_groups[0]["lr"],
            "seconds": round(seconds, 2),
            "host_peak_mb": round(resident_peak() / 1e6),
            "gpu_peak_mb": on_device and round(on_device / 1e6),
        }
        self.paper.schedule.step()
        return entry

    def some_embeddings(self, windows: int) -> Replay:
        """Of about so many of the training clips' frames, for trainings that start from this one; always the same."""
        found: list[Frozen] = []
        for index in np.random.default_rng(self.recipe.seed).permutation(len(self.plan.training)):
            one = read(self.plan.training[index], self.results)
            found.append(one.frozen or self.results.compute(one.clip, one.images, one.sounds))
            if sum(len(each.a) for each in found) >= windows:
                break
        return Replay(v=torch.cat([each.v.cpu() for each in found]), a=torch.cat([each.a.cpu() for each in found]))

    def _fill(self) -> None:
        """Compute and cache what is frozen; each process a share of it, which all can read afterwards."""
        if self.results.store is not None:
            own = self._own([*self.plan.training, *self.plan.validation])
            missing = [clip for clip in own if not self.results.is_cached(clip)]
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
        own = self._own(self.plan.validation)
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
        return closing(read_ahead([read(clip, self.results) for clip in part] for part in parts))

    def _draw(self, number: int, values: Mapping[str, float]) -> None:
        if self._curves is not None:
            for name, value in values.items():
                self._curves.add_scalar(name, value, number)


def train_version(
    plan: Plan,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    cache: tuple[Path, int],
    bar: Bar,
    say: Callable[[str], None],
) -> dict[str, float] | None:
    """Trains, or resumes in `folder`, and saves the model version. Returns its metrics, None but in the first process.

    `device`: auto, cpu or cuda. `cache`: the folder of frozen results, and how many bytes it may hold. One process, or
    each of several that a launcher started; only the first one writes and speaks. AV2TError.
    """
    shared = accelerator(cpu=device == "cpu")
    if device == "cuda" and shared.device.type != "cuda":
        raise TrainingError("device 'cuda' was asked for, but torch sees no GPU; use the device cpu")
    where = torch.device("cpu") if shared.device.type == "cpu" else shared.device  # of several processes it is cpu:0
    first = shared.is_main_process
    if not first:
        bar, say = lambda *_: tqdm(disable=True), lambda _: None
    run = RunFolder(folder, writes=first)
    with run.alone(plan.card):
        shared.wait_for_everyone()
        loaded = load_start(plan.start, plan.preset, plan.feature, plan.recipe.seed, where, plan.precision)
        cached, limit = cache
        store = TensorStore(cached, limit, process=shared.process_index, processes=shared.num_processes)
        trainer = Trainer(loaded, plan, schedule, run, store if limit else None, shared, bar, say)
        position = trainer.run()
        metrics = {"val_miou": round(position.best_miou, 4), "best_epoch": position.best_epoch}
        if first:
            software = {"av2t": version("av2t-sam"), "torch": torch.__version__, "python": platform.python_version()}
            card = {**plan.card, "metrics": metrics, "software": software}
            replayed = folder / REPLAY_FILE
            card["replay_sha256"] = keep(replayed, trainer.some_embeddings(WINDOWS))
            _save(plan, card, run.best(), replayed)
        shared.wait_for_everyone()
    # A model whose blocks are computed twice refers to itself; its memory is for the next one.
    del trainer, loaded
    gc.collect()
    return metrics if first else None


def load_start(
    version: Version, preset: str, feature: Feature, seed: int, device: torch.device, precision: Precision
) -> Loaded:
    """The model as it begins, from `resolve_start`'s version; `seed` draws the projector and the adapters.

    WeightsError as for `load_version`.
    """
    fetch(version)
    version.verify()
    empty = build(preset, feature, version.card.labels)
    taken = (
        (key, tensor)
        for path, _ in version.files
        for key, tensor in read_tensors(path, device)
        if not key.removeprefix("model.").startswith(DRAWN)
    )
    return fill_version(version, empty, chain(taken, _draw(empty.model, seed)), device, precision)


def _save(plan: Plan, card: Mapping[str, Any], trained: Mapping[str, Tensor], replay: Path) -> None:
    """The model version of what was trained, over the frozen parts of what it started from. WeightsError: it exists."""
    own = {f"model.{key}": tensor for key, tensor in trained.items()}
    start, models_dir = plan.start, plan.models_dir
    parts = list(start.card.parts) if start.directory.parent == models_dir else []
    shared = {part.file for part in parts}
    frozen = {
        key: tensor
        for path, _ in start.files
        if path.name not in shared
        for key, tensor in read_tensors(path, torch.device("cpu"))
        if key not in own and not key.removeprefix("model.").startswith(DRAWN)
    }
    if frozen:
        parts.append(save_part(models_dir, start.name, frozen))
    save_version(
        plan.directory, {**card, "labels": start.card.labels, "parent": start.name, "parts": parts}, own, [replay]
    )


def _draw(model: AV2TSam, seed: int) -> Iterator[tuple[str, Tensor]]:
    """New weights for what a start lacks; `model` may be on the meta device, and stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in (("projector", model.projector), ("adapters", model.adapters)):
            if module is not None:
                drawn = deepcopy(module).to_empty(device="cpu")
                drawn.reset_parameters()
                for key, tensor in drawn.state_dict().items():
                    yield f"model.{name}.{key}", tensor
