"""Everything that a training keeps, on a real disk that is full: that may pass, and what was kept before stays."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from av2t_core.errors import DiskFullError
from av2t_core.files import writing
from av2t_core.finetuning.examples import ClipExamples, Examples
from av2t_core.training.frozen import TensorStore
from av2t_core.training.run_folder import Position, RunFolder
from av2t_core.versions.pointers import promote
from av2t_core.versions.saving import save_version
from tests.conftest import EMBEDDED
from tests.faults.plant import small_disk

LARGE = {"a": torch.zeros(10**6)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Of two megabytes."""
    with small_disk(tmp_path / "disk", 2) as mounted:
        if not mounted:
            pytest.skip("no right to mount a disk")
        yield tmp_path / "disk"


def fill(disk: Path) -> None:
    try:
        (disk / "filler").write_bytes(bytes(2**22))
    except OSError:
        return


def log(disk: Path) -> None:
    for step in range(10_000):
        RunFolder(disk).log({"epoch": 1, "step": step, "note": "x" * 1000})


def claim(disk: Path) -> None:
    fill(disk)
    with RunFolder(disk / "run").alone({"plan": 1}):
        pytest.fail("there was no room to say so")


def examples(disk: Path) -> None:
    names = ("sam", "multimodal", "v", "a", "target")
    some = Examples.of({name: torch.zeros(1000, 1000, dtype=torch.uint8) for name in names})
    with writing(disk):
        beside = {name: torch.zeros(0, 1) for name in ("things", "outlines", "elsewhere", "numbers")}
        clip = ClipExamples(sha256="", size=(1, 1), keyframes=some, labels=(), **beside)
        clip.save(disk / "clip.safetensors")


def version(disk: Path) -> None:
    with writing(disk):
        save_version(disk / "mine-1", {"preset": "tiny", "labels": []}, LARGE)


def pointer(disk: Path) -> None:
    promote(disk, 1, EMBEDDED)
    fill(disk)
    promote(disk, 2, EMBEDDED)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a checkpoint": lambda disk: RunFolder(disk).save(Position(), LARGE),
    "the best": lambda disk: RunFolder(disk).keep_best(LARGE),
    "its log": log,
    "its plan": claim,
    "a clip's examples": examples,
    "what is frozen": lambda disk: TensorStore(disk, 10**9).put("0" * 16, LARGE),
    "a version": version,
    "a pointer": pointer,
}


@pytest.mark.parametrize("what", WRITERS)
def test_it_may_pass(disk: Path, what: str) -> None:
    with pytest.raises(DiskFullError, match=r"is full .*: make room"):
        WRITERS[what](disk)


def test_the_checkpoint_before_stays(disk: Path) -> None:
    RunFolder(disk).save(Position(epoch=3), {"a": torch.ones(2)})
    with pytest.raises(DiskFullError):
        RunFolder(disk).save(Position(epoch=4), LARGE)
    state = RunFolder(disk).load()
    assert state is not None
    assert state["position"].epoch == 3
    assert json.dumps(state["trained"]["a"].tolist()) == "[1.0, 1.0]"
