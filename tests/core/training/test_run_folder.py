"""The folder of a training: what was asked for, where it goes on, and its log."""

from pathlib import Path

import pytest
import torch

from av2t_core.training.plan import TrainingError
from av2t_core.training.run_folder import Position, RunFolder

PLAN = {"preset": "tiny", "recipe": {"lr": 0.1, "sizes": (1, 2)}}


def test_the_same_plan_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for _ in range(2):
        with folder.alone(PLAN):
            pass
    other = {**PLAN, "recipe": {"lr": 0.2, "sizes": (1, 2)}}
    with pytest.raises(TrainingError, match=r"by another plan \(recipe \{'lr': 0.1.*now \{'lr': 0.2"):
        folder.alone(other).__enter__()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path).alone(PLAN), pytest.raises(TrainingError, match="another training is at work"):
        RunFolder(tmp_path).alone(PLAN).__enter__()


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load() is None
    position = Position(epoch=2, step=5, bce=0.5, iou=0.25, best_epoch=1, best_miou=0.75)
    folder.save(position, {"w": torch.ones(3)}, optimiser={"state": {0: {"step": torch.tensor(7.0)}}})
    state = folder.load()
    assert state is not None
    assert state["position"] == position
    assert torch.equal(state["trained"]["w"], torch.ones(3))
    assert state["optimiser"]["state"][0]["step"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_log_forgets_what_is_going_to_happen_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        for step in (1, 2, 3):
            folder.log({"epoch": epoch, "step": step})
        folder.log({"epoch": epoch, "val_miou": 0.5})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')  # what a kill may leave
    folder.forget_after(Position(epoch=1, step=2))
    first = [{"epoch": 1, "step": step} for step in (1, 2, 3)] + [{"epoch": 1, "val_miou": 0.5}]
    assert folder.entries() == [*first, {"epoch": 2, "step": 1}, {"epoch": 2, "step": 2}]
    folder.forget_after(Position(epoch=1, step=0))
    assert folder.entries() == first
    folder.forget_after(Position())
    assert folder.entries() == []
