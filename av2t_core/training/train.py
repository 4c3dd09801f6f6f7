"""From the plan of a training to its model version: the whole road, for the commands."""

import gc
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from av2t_core.model.av2t_sam import DRAWN, AV2TSam
from av2t_core.model.config import Feature
from av2t_core.training.paper import accelerator
from av2t_core.training.plan import Plan, TrainingError
from av2t_core.training.replay import WINDOWS, keep
from av2t_core.training.run_folder import RunFolder
from av2t_core.training.tensor_store import TensorStore
from av2t_core.training.trainer import Bar, Schedule, Trainer
from av2t_core.versions.checkpoint import Loaded, Precision, build, fill_version, read_tensors
from av2t_core.versions.folder import save_part, save_version
from av2t_core.versions.names import REPLAY_FILE
from av2t_core.versions.store import fetch
from av2t_core.versions.version import Version


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
        raise TrainingError("device 'cuda' was asked for, but torch sees no GPU; use the device cpu")
    where = torch.device("cpu") if shared.device.type == "cpu" else shared.device  # of several processes it is cpu:0
    first = shared.is_main_process
    run = RunFolder(folder, writes=first)
    with run.alone(plan.card):
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


def keep_trained(
    models_dir: Path,
    name: str,
    start: Version,
    card: Mapping[str, Any],
    trained: Mapping[str, Tensor],
    beside: Sequence[Path] = (),
) -> None:
    """A model version of what was trained, over what was not. WeightsError: it exists."""
    own = {f"model.{key}": tensor for key, tensor in trained.items()}
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
        models_dir / name,
        {**card, "labels": start.card.labels, "parent": start.name, "parts": parts},
        own,
        beside,
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
