"""The job that makes a model version of what people corrected. It runs in the process that holds the model.

As every job it can be done again: what was pulled and what was learnt are kept in AV2T_DATA_DIR/finetune until the
version is there, and a version that is there already, or in the model store, is not made a second time.
"""

import hashlib
import logging
import platform
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as release
from typing import Any

import torch
from redis import Redis
from rq import get_current_job

from av2t_core.errors import AV2TError
from av2t_core.finetuning.fine_tuning import FineTuneRecipe, FineTuning, fit_names, learnable
from av2t_core.finetuning.judging import (
    HELD_OUT_RULE,
    Keyframes,
    Metrics,
    as_card,
    choose_held_out,
    compare,
    credited,
    judge_clip,
)
from av2t_core.labelstudio.label_config import Targets, parse_label_config
from av2t_core.model.presets import PRESETS
from av2t_core.prediction.predictor import Predictor
from av2t_core.training.replay import Replay, replay_of
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions.checkpoint import with_names
from av2t_core.versions.names import fine_tuned_name
from av2t_core.versions.pointers import promote
from av2t_core.versions.saving import save_version
from av2t_core.versions.store import fetch
from av2t_core.versions.version import NAMES, Version, find, installed, resolve
from worker.client.annotations import AnnotatedTask, Skipped, annotated_tasks
from worker.client.connection import connected, through_outages
from worker.client.label_studio import LabelStudioClient
from worker.client.reconcile import repredict
from worker.jobs.annotated_clips import AnnotatedClips, PulledClip
from worker.jobs.preannotation import load_predictor
from worker.process.memory import gpu_lease, gpu_of
from worker.queue import heartbeat
from worker.queue.heartbeat import Progress
from worker.queue.job import KnownJob
from worker.queue.projects import model_version
from worker.queue.training import ToTrain, Trained
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

# Of SAM's square input, for each keyframe of a batch: 630 were measured of SAM2-L in bf16, 650 of the embedded model.
TRAINING_BYTES_PER_PIXEL = 1000
LEAST_CLIPS = 5
"""With fewer annotated clips nothing can be learnt and measured at once."""


@dataclass
class _Context:
    settings: Settings
    client: LabelStudioClient


_context: _Context | None = None


def set_up(settings: Settings) -> None:
    """Reach Label Studio, however long it takes. The model is that of each job. AV2TError: the key cannot be used."""
    global _context
    _context = _Context(settings=settings, client=connected(settings))


def finetune(asked: ToTrain) -> Trained:
    """Make a model version of the project's annotations. AV2TError: too few clips, or nothing that can be started
    from."""
    job = get_current_job()
    assert _context is not None, "set_up comes first"
    assert job is not None, "the number of the version is that of the job"
    training = _FineTune(_context, job, asked)
    return through_outages(training.client, training.run)


class _FineTune:
    """One training of a project."""

    recipe: FineTuneRecipe

    def __init__(self, context: _Context, job: KnownJob, asked: ToTrain) -> None:
        self.settings, self.client = context.settings, context.client
        self.connection: Redis = job.connection
        self.asked, self.project = asked, asked.project
        self.number = int(job.id.rpartition("-")[2])
        self.progress = Progress(job)
        self.folder = self.settings.data_dir / "finetune" / str(self.project)

    def run(self) -> Trained:
        self.settings.mirror().refresh()  # another machine may have made it, or what it is made from
        base = self._base(self.asked.base_version)
        epochs = self.asked.epochs or PRESETS[base.card.preset].epochs
        self.recipe = FineTuneRecipe(epochs=epochs, also=tuple(self.asked.also))
        name = fine_tuned_name(base.chain[-1].name, self.project, self.number)
        version = find(name, self.settings.models_dir)
        if version is None:
            fetch(base, heartbeat.progress)
            with gpu_lease(self.connection, gpu_of(self.settings.device), _memory(base, self.recipe)):
                version = self._make(base, name)
        else:
            log.info("project %d: %s is there already", self.project, name)
        if store := self.settings.store:
            store.push(version, heartbeat.progress)
        return self._adopt(version)

    def _base(self, name: str | None) -> Version:
        if name is None:
            name = model_version(self.connection, self.project, self.settings)
        return resolve(name, self.settings.models_dir).check()

    def _make(self, base: Version, name: str) -> Version:
        started = time.monotonic()
        log.info("project %d: %s is made, from %s", self.project, name, base.name)
        targets = parse_label_config(self.client.label_config(self.project))
        self.progress.show(0, None, now=True, stage="pulling", version=name, epochs=self.recipe.epochs)
        # Every annotated clip has been looked at before a model is loaded, for most mistakes show here.
        tasks = list(annotated_tasks(self.client, self.project, targets, self.settings))
        usable = [task for task in tasks if isinstance(task, AnnotatedTask)]
        _require(self.project, len(usable), tasks)
        predictor = load_predictor(base.name, self.settings)
        annotated = AnnotatedClips(self.client, self.settings, targets, self.folder / "clips", self.progress)
        pulled, skipped = annotated.pull(usable, base, predictor.loaded)
        skipped += [task for task in tasks if isinstance(task, Skipped)]
        _require(self.project, len(pulled), skipped)
        learnt = _used("training", base.chain)
        ours = [each for each in installed(self.settings.models_dir) if each.card.project == self.project]
        apart = choose_held_out([clip.sha256 for clip in pulled], learnt, _used("held out", [*base.chain, *ours]))
        if not apart:
            raise AV2TError(
                f"None of project {self.project}'s {len(pulled)} annotated clips can be held out to judge by:"
                f" {base.name} has learnt from them, or fewer than four differ. Annotate clips that are new to it."
            )
        held_out = [clip for clip in pulled if clip.sha256 in apart]
        own = [clip for clip in pulled if clip.sha256 not in apart]
        self.progress.show(0, None, now=True, clips=len(own), held_out=len(held_out))
        before = self._judge(predictor, annotated, held_out, targets.names, first=True)
        replay = replay_of(base)
        names, named = _learn_names(targets, base, predictor, own, replay)
        # Beside a finder's prompts things are learned from one by one, and where nobody labelled any there are none.
        rows = predictor.loaded.finder is None or any(clip.examples.labels for clip in own)
        learned, curve = self._learn(predictor, base, name, own, replay) if rows and self.recipe.epochs else ({}, [])
        if names:
            on_device = {key: tensor.to(predictor.loaded.device) for key, tensor in named.items()}
            predictor.loaded = with_names(predictor.loaded, names, on_device)
        after = self._judge(predictor, annotated, held_out, targets.names, first=False)
        before, after = credited(before, after)
        verdict = compare(before, after)
        metrics = as_card(Metrics.of(before), Metrics.of(after), verdict, len(held_out))
        card = {
            "preset": base.card.preset,
            "feature": base.card.feature,
            "labels": base.card.labels,
            "parent": base.name,
            "onto_parent": True,
            "project": self.project,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started),
            "recipe": asdict(self.recipe),
            "learning_curve": curve,
            "data": _data(own, held_out, skipped),
            "metrics": metrics | {"agreement": _agreement(usable)},
            "verdict": {"better": verdict.better, "sentence": verdict.sentence},
            "software": {"av2t": release("av2t-sam"), "torch": torch.__version__, "python": platform.python_version()},
        }
        card |= {name: value for name, value in (("calibration", base.card.calibration), ("names", names)) if value}
        tensors = {f"model.{key}": tensor for key, tensor in learned.items()}
        tensors |= {f"{NAMES}{key}": tensor for key, tensor in named.items()}
        models_dir = self.settings.models_dir
        save_version(models_dir / name, card, tensors)
        for folder in self.folder.glob(f"{name}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        log.info("project %d: %s: %s", self.project, name, verdict.sentence)
        return resolve(name, models_dir)

    def _judge(
        self,
        predictor: Predictor,
        annotated: AnnotatedClips,
        clips: Sequence[PulledClip],
        asked: Sequence[str],
        *,
        first: bool,
    ) -> list[Keyframes]:
        """The held-out clips, by the version that there was (`first`) and by the one that there is now."""
        found = []
        for done, clip in enumerate(clips):
            self.progress.show(done + len(clips) * (not first), 2 * len(clips), now=done == 0, stage="judging")
            heartbeat.check()
            with annotated.opened(clip.task) as (_, windows, masks):
                found.append(judge_clip(predictor, windows, masks, asked, masks.accepted))
        return found

    def _learn(
        self, predictor: Predictor, base: Version, name: str, own: Sequence[PulledClip], replay: Replay | None
    ) -> tuple[dict[str, torch.Tensor], list[float]]:
        """Train the predictor's model in its place: what has learned, and the mean loss of each epoch."""
        loaded = predictor.loaded
        # What it learns from is in its name, so that other annotations begin another one.
        learns_from = (base.name, asdict(self.recipe), [clip.key for clip in own])
        digest = hashlib.sha256(repr(learns_from).encode()).hexdigest()[:8]
        folder = RunFolder(self.folder / f"{name}-{digest}")
        with folder.alone({"base": base.name, "recipe": asdict(self.recipe)}):
            tuning = FineTuning(loaded, [clip.examples for clip in own], replay, self.recipe, folder)
            began, first = time.monotonic(), None
            with closing(tuning.run()) as steps:
                for at in steps:
                    first = at.step - 1 if first is None else first
                    left = (time.monotonic() - began) / (at.step - first) * (at.steps - at.step)
                    self.progress.show(
                        at.step,
                        at.steps,
                        now=at.step == at.steps,
                        stage="training",
                        epoch=at.epoch,
                        epochs=at.epochs,
                        loss=round(at.mean_loss, 4),
                        eta=round(left),
                    )
                    heartbeat.check()
            curve = [round(entry["loss"], 4) for entry in folder.entries() if "step" not in entry]
        self.progress.show(0, None, now=True, eta=None)
        return {key: tensor.cpu().clone() for key, tensor in tuning.learned.items()}, curve

    def _adopt(self, version: Version) -> Trained:
        """Have the project use it, if it is better; all of this may have been done before."""
        verdict, metrics = version.card.verdict, version.card.metrics
        assert verdict is not None, f"{version.name} is of no training"
        assert metrics is not None, f"{version.name} is of no training"
        if verdict.better:
            promote(self.settings.models_dir, self.project, version.name, self.settings.store)
            self.client.is_connected(self.project)  # by which Label Studio asks whose predictions it is to show
            log.info("project %d uses %s from now on", self.project, version.name)
            if self.settings.repredict == "always":
                repredict(self.connection, self.client, self.settings, self.project)
        return Trained(
            version=version.name, promoted=verdict.better, sentence=verdict.sentence, metrics=metrics.as_json()
        )


def _used(use: str, versions: Sequence[Version]) -> set[str]:
    """The sha256 of the clips that had this use for any of the versions."""
    return {clip.sha256 for each in versions for clip in each.card.clips if clip.use == use and clip.sha256}


def _memory(base: Version, recipe: FineTuneRecipe) -> int:
    """Bytes that a training from this version takes on a GPU, with some to spare."""
    weights = sum(path.stat().st_size for path, _ in base.files)
    pixels = PRESETS[base.card.preset].config().segmenter.image_size ** 2
    return weights + recipe.batch * pixels * TRAINING_BYTES_PER_PIXEL


def _require(project: int, usable: int, tasks: Sequence[object]) -> None:
    """AV2TError: too few."""
    if usable < LEAST_CLIPS:
        left_out = [f"task {task.task}: {task.reason}" for task in tasks if isinstance(task, Skipped)]
        more = f" Left out: {'; '.join(left_out[:3])}." if left_out else ""
        raise AV2TError(
            f"Project {project} has {usable} annotated clip{'' if usable == 1 else 's'} that can be used, and training"
            f" needs {LEAST_CLIPS}: annotate {LEAST_CLIPS - usable} more.{more}"
        )


def _learn_names(
    targets: Targets, base: Version, predictor: Predictor, own: Sequence[PulledClip], replay: Replay | None
) -> tuple[tuple[str, ...], dict[str, torch.Tensor]]:
    """The project's labels that the model has no name for and cannot read, and the tensors by which it has from now on.

    Of the clips that it learns from alone, like all the rest.
    """
    namer = predictor.loaded.namer
    known = {name.casefold() for name in base.chain[-1].card.labels}
    labels = [label for control in targets.controls for label in control.labels]
    unknown = [
        label.name
        for label in labels
        if not known & {name.casefold() for name in (label.name, *label.predicted_values)}
    ]
    sounds, things, elsewhere = [], [], []
    for clip in own:
        examples = clip.examples
        heard: dict[int, set[str]] = {}
        for (number, names), v in zip(examples.labels, examples.things, strict=True):
            heard.setdefault(number, set()).update(names)
            things.append((v, frozenset(names)))
        sounds += [(a, frozenset(heard.get(number, ()))) for number, a in enumerate(examples.keyframes.a)]
        in_clip = {name for names in heard.values() for name in names}
        for number, v in zip(examples.numbers.tolist(), examples.elsewhere, strict=True):
            elsewhere.append((v, frozenset(in_clip - heard.get(number, set()))))
    names = learnable(tuple(dict.fromkeys(unknown)), sounds)
    if namer is None or not names:
        return (), {}
    return names, fit_names(names, sounds, things, replay, elsewhere)


def _data(own: Sequence[PulledClip], held_out: Sequence[PulledClip], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Every clip's use, or why it has none, for the card."""
    used = [
        {"task": clip.task.task, "annotation": clip.task.annotation, "sha256": clip.sha256, "use": use}
        for use, clips in (("training", own), ("held out", held_out))
        for clip in clips
    ]
    left_out = [{"task": each.task, "use": "left out", "reason": each.reason} for each in skipped]
    return {"rule": HELD_OUT_RULE, "clips": sorted(used + left_out, key=lambda clip: int(str(clip["task"])))}


def _agreement(tasks: Sequence[AnnotatedTask]) -> dict[str, Any]:
    """How much of what was pre-annotated people left as it was."""
    counts: Counter[str] = Counter()
    for task in tasks:
        counts.update(task.origins)
    accepted, changed, added = (counts[name] for name in ("prediction", "prediction-changed", "manual"))
    total = accepted + changed + added
    return {
        "regions_accepted": accepted,
        "regions_changed": changed,
        "regions_added": added,
        "accepted": round(accepted / total, 4) if total else None,
    }
