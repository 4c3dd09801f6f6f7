"""The loop of a training, where it meets others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from av2t_core.training.batches import read
from av2t_core.training.frozen import FrozenResults, TensorStore
from av2t_core.training.paper import accelerator
from av2t_core.training.plan import PaperRecipe, TrainingError, make_plan
from av2t_core.training.run_folder import RunFolder
from av2t_core.training.train import Schedule, Trainer, load_start
from av2t_core.versions.version import resolve_start
from tests.core.avsbench_sets import compose_set


def test_what_another_training_has_kept_meanwhile_is_taken(tmp_path: Path) -> None:
    root = compose_set(tmp_path / "data", "s4", 3, shares=(34, 33, 33))
    plan = make_plan(root, "s4", "x", models_dir=tmp_path, preset="tiny", recipe=PaperRecipe(epochs=1, batch=1))
    loaded = load_start(resolve_start("tiny", None, tmp_path), "tiny", "mul", 0, torch.device("cpu"), "fp32")
    store = TensorStore(tmp_path / "cache", 10**9)
    said: list[str] = []

    def bar(what: str, total: int | None, unit: str) -> Any:
        """By when this one has found out what it lacks."""
        if what == "frozen results":
            assert total == 2
            other = FrozenResults(loaded, TensorStore(tmp_path / "cache", 10**9))
            for clip in [*plan.training, *plan.validation]:
                given = read(clip, other)
                other.compute(clip, given.images, given.sounds)
        return tqdm(total=total, disable=True)

    alone = accelerator(cpu=True)
    trainer = Trainer(loaded, plan, Schedule(), RunFolder(tmp_path), store, alone, bar, said.append)
    position = trainer.run()
    assert (position.epoch, position.best_epoch) == (1, 1)
    assert len(said) == 1
    assert said[0].startswith("epoch 1 of 1: loss ")


def test_what_finds_things_by_their_names_is_not_trained_on_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="small finds things by their names, and learns from what people correct"):
        make_plan(tmp_path, "s4", "x", models_dir=tmp_path, preset="small", recipe=PaperRecipe())
