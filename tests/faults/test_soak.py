"""Many tasks, several workers, and all the time something fails. `make soak`; AV2T_SEED repeats a run."""

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import LabelStudioServer, wait_until
from tests.faults.plant import CLIPS, FAULTS, Plant, small_disk, told

INTERVAL = 5  # seconds between two faults


SOME = [
    "SIGKILL of both",
    "SIGKILL of Redis, and a restart",
    "SIGTERM of the worker",
    "Label Studio answers 500",
    "a proxy answers 404",
    "a proxy answers 520 to what was done",
    "the disk is full",
    "a job is delivered twice",
]


def soak(
    studio: LabelStudioServer, folder: Path, *, tasks: int, workers: int, kinds: Sequence[str], faults: int, seed: int
) -> None:
    """Each kind of fault once before any comes again. No task may be lost or predicted twice, and nothing left."""
    rng = random.Random(seed)
    order = [name for _ in range(-(-faults // len(kinds))) for name in rng.sample(sorted(kinds), len(kinds))]
    with small_disk(folder / "tmp") as mounted, Plant(studio, folder, workers=workers) as plant:
        project, ids = plant.add_tasks([CLIPS[n % len(CLIPS)] for n in range(tasks)])
        wait_until(lambda: len(plant.workers()) == workers)
        plant.enqueue(project, ids)
        began = time.monotonic()
        done: Counter[str] = Counter()
        for number, name in enumerate(order[:faults]):
            wait = began + number * INTERVAL - time.monotonic()
            time.sleep(max(0, wait))  # the time between faults is what is asked for, and no condition to wait for
            FAULTS[name](plant, rng)
            done[name] += 1
        last = time.monotonic()
        wait_until(lambda: plant.is_done(project), 1200, "the end of all tasks")
        ended = time.monotonic()
        plant.stop_workers()
        outcome = plant.outcome(project, ids)
        print(f"\nseed {seed}: {tasks} tasks, {workers} workers, {faults} faults in {last - began:.0f} s")
        print(f"done {ended - began:.0f} s after the first; {plant.started} workers were started; own disk: {mounted}")
        for name, count in sorted(done.items()):
            print(f"  {count:3} x {name}")
        print(told(outcome))
        assert outcome.lost == outcome.twice == ()
        assert outcome.orphans == outcome.files == ()
        assert (outcome.predicted, outcome.failed) == (tasks, {})


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_soak(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    seed = int(os.environ.get("AV2T_SEED") or secrets.randbelow(10**6))
    faults, tasks = (int(os.environ.get(name) or usual) for name, usual in (("AV2T_FAULTS", 120), ("AV2T_TASKS", 200)))
    soak(label_studio, tmp_path, tasks=tasks, workers=3, kinds=list(FAULTS), faults=faults, seed=seed)


def test_some_faults(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    soak(label_studio, tmp_path, tasks=8, workers=2, kinds=SOME, faults=len(SOME), seed=1)
