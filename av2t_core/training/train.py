"""From the plan of a training to its model version: the whole road, for the commands."""

import gc
import platform
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from av2t_core.training.folder import RunFolder
from av2t_core.training.paper import accelerator
from av2t_core.training.plan import Plan, TrainingError
from av2t_core.training.replay import WINDOWS, keep
from av2t_core.training.start import keep_trained, load_start
from av2t_core.training.store import TensorStore
from av2t_core.training.trainer import Bar, Schedule, Trainer
from av2t_core.versions.version import REPLAY_FILE


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
    """Trains, or goes on in `folder`, and keeps the model version. Returns its metrics, None but in the first process.

    `device`: auto, cpu or cuda. `cache`: the folder of frozen results, and how many bytes it may hold. One process, or
    each of several that a launcher started; only the first one writes and speaks. AV2TError.
    """
    shared = accelerator(cpu=device == "cpu")
    if device == "cuda" and shared.device.type != "cuda":
        raise TrainingError("device 'cuda' was asked for, but torch sees no GPU; use --device cpu")
    where = torch.device("cpu") if shared.device.type == "cpu" else shared.device  # of several processes it is cpu:0
    first = shared.is_main_process
    run = RunFolder(folder)
    with run.alone(plan.card) if first else nullcontext():
        shared.wait_for_everyone()
        loaded = load_start(plan.start, plan.preset, plan.feature, plan.recipe.seed, where, plan.precision)
        kept, limit = cache
        store = TensorStore(kept, limit, process=shared.process_index, processes=shared.num_processes)
        trainer = Trainer(
            loaded,
            plan.training,
            plan.validation,
            recipe=plan.recipe,
            schedule=schedule,
            folder=run,
            store=store if limit else None,
            accelerator=shared,
            bar=bar if first else _no_bar,
            say=say if first else lambda _: None,
        )
        position = trainer.run()
        metrics = {"val_miou": round(position.best_miou, 4), "best_epoch": position.best_epoch}
        if first:
            software = {"av2t": version("av2t-sam"), "torch": torch.__version__, "python": platform.python_version()}
            card = {**plan.card, "metrics": metrics, "software": software}
            replayed = folder / REPLAY_FILE
            card["replay_sha256"] = keep(replayed, trainer.some_embeddings(WINDOWS))
            keep_trained(plan.models_dir, plan.name, plan.start, card, run.best(), [replayed])
        shared.wait_for_everyone()
    # A model whose blocks are computed twice refers to itself; its memory is for the next one.
    del trainer, loaded
    gc.collect()
    return metrics if first else None


def is_first_process(device: str) -> bool:
    """Whether this is the only process, or the first one of several that a launcher started."""
    return bool(accelerator(cpu=device == "cpu").is_main_process)


def _no_bar(what: str, total: int | None, unit: str) -> Any:
    return tqdm(desc=what, total=total, unit=unit, disable=True)
