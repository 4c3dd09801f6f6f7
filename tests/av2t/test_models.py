"""`av2t models`: on a folder of real versions, with a real Label Studio and a real Redis where they are told."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis

from av2t.__main__ import main
from av2t_core.files import in_gigabytes
from av2t_core.versions.pointers import current, promote
from av2t_core.versions.saving import save_version
from av2t_core.versions.version import find, resolve
from tests.backend.conftest import CONFIG, running
from tests.conftest import EMBEDDED, SHIPPED, LabelStudioServer, queued_tasks
from worker.queue.projects import Project, keep
from worker.queue.results import note_score

FIRST, SECOND = f"{EMBEDDED}-p3-1", f"{EMBEDDED}-p3-2"
BIAS = "model.projector.audio_proj.bias"


def clip(number: int, use: str, **more: object) -> dict[str, Any]:
    return {"task": number, "annotation": 100 + number, "sha256": f"{number:064x}", "use": use, **more}


def judged(before: float, after: float, clips: int) -> dict[str, Any]:
    def metrics(iou: float) -> dict[str, float | None]:
        return {"iou": iou - 0.1, "f": iou + 0.05, "sounding_iou": iou, "silent_false_positives": None}

    return {
        "held_out_clips": clips,
        "before": metrics(before),
        "after": metrics(after),
        "difference": {"sounding_iou": after - before, "low": 0.05, "high": 0.3},
        "agreement": {"regions_accepted": 10, "regions_changed": 4},
    }


CARD = {
    "preset": "tiny",
    "feature": "mul",
    "onto_parent": True,
    "project": 3,
    "recipe": {"epochs": 30, "also": []},
}


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With two versions of project 3, the second trained from the first."""
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "data"))
    for name in ("AV2T_REPREDICT", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    models_dir = tmp_path / "data/models"
    labels = resolve("tiny").card.labels
    training, held_out = [clip(n, "training") for n in range(14)], [clip(n, "held out") for n in range(20, 26)]
    first = {
        **CARD,
        "labels": labels,
        "parent": EMBEDDED,
        "created": "2026-01-02T03:04:05+00:00",
        "data": {"clips": [*training, *held_out, {"task": 99, "use": "left out", "reason": "it was cancelled"}]},
        "metrics": judged(0.4, 0.65, 6),
        "verdict": {"better": True, "sentence": "It is better: +0.250 IoU on 6 held-out clips."},
    }
    more = [clip(25, "training"), clip(30, "held out")]  # of which the first was held out before
    second = {
        **first,
        "parent": FIRST,
        "data": {"clips": [*training, *held_out[:-1], *more]},
        "metrics": judged(0.65, 0.66, 6),
        "verdict": {"better": False, "sentence": "It may be better."},
    }
    for name, card in ((FIRST, first), (SECOND, second)):
        save_version(models_dir / name, card, {BIAS: torch.zeros(256)})
    return models_dir


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def table(self) -> list[list[str]]:
        """The cells of its lines."""
        return [[cell.strip() for cell in line.strip().split("  ") if cell.strip()] for line in self.out.splitlines()]


Av2t = Callable[..., Said]


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str]) -> Av2t:
    """`av2t models` in this process."""

    def run(*arguments: object) -> Said:
        status = main(["models", *map(str, arguments)])
        return Said(status, *capsys.readouterr())

    return run


def refused(said: Said) -> str:
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("av2t: error: ")
    assert said.err.count("\n") == 1
    return said.err


# What is read


def test_the_list(models: Av2t, models_dir: Path) -> None:
    promote(models_dir, 3, FIRST)
    promote(models_dir, 12, FIRST)
    small, tiny = (sum(path.stat().st_size for path, _ in resolve(name).stored_files) for name in SHIPPED)
    title, head, *rows = models("list").table
    assert title == [f"Model versions in {models_dir}"]
    assert head == ["name", "loads onto", "project", "made", "size", "IoU where it sounds", "used by"]
    assert rows == [
        [FIRST, EMBEDDED, "3", "2026-01-02 03:04", "1 kB", "65.0 % (was 40.0 %)", "projects 3, 12"],
        [SECOND, FIRST, "3", "2026-01-02 03:04", "1 kB", "66.0 % (was 65.0 %)"],
        [SHIPPED[0], "-", "-", "-", in_gigabytes(small), "-"],
        [EMBEDDED, "-", "-", "-", in_gigabytes(tiny), "-", "AV2T_MODEL"],
    ]


def test_the_list_of_a_project(models: Av2t, models_dir: Path) -> None:
    shutil.copytree(resolve(EMBEDDED).directory, models_dir / "mine-1")
    save_version(models_dir / "mine-1-p4-1", {**CARD, "labels": [], "parent": "mine-1", "project": 4}, {})
    found = json.loads(models("list", "--project", 4, "--json").out)
    assert [each["name"] for each in found] == ["mine-1", "mine-1-p4-1"]  # mine-1 is what AV2T_MODEL=tiny means now
    promote(models_dir, 4, FIRST)
    found = json.loads(models("list", "--project", 4, "--json").out)
    assert {each["name"]: each["current_of"] for each in found} == {
        "mine-1": [],
        "mine-1-p4-1": [],
        FIRST: [4],
        EMBEDDED: [],
    }


def test_what_one_is(models: Av2t, models_dir: Path) -> None:
    promote(models_dir, 3, SECOND)
    said = models("show", SECOND)
    rows = {row[0]: row[1:] for row in said.table if row}
    assert rows["verdict"] == ["It may be better."]
    assert rows["loads onto"] == [f"{FIRST} onto {EMBEDDED}"]
    assert rows["used by"] == ["project 3"]
    assert rows["IoU where something sounds"] == ["65.0 %", "66.0 %"]
    assert rows["gained in IoU where something sounds"] == ["+1.0", "between +5.0 and +30.0"]
    assert rows["masked where nothing sounds"] == ["-", "-"]
    assert (rows["training"], rows["held out"], rows["epochs"]) == (["15"], ["6"], ["30"])
    assert rows["regions accepted"] == ["10"]
    assert ["left out: it was cancelled", "1"] in models("show", FIRST).table
    shown = json.loads(models("show", FIRST, "--json").out)
    assert shown["card"] == json.loads((models_dir / FIRST / "card.json").read_text())


def test_one_whose_card_says_nothing(models: Av2t, models_dir: Path) -> None:
    save_version(models_dir / "mine-1", {"preset": "tiny", "labels": [], "parent": None}, {})
    assert models("show", "mine-1").status == 0
    assert models("compare", "mine-1", FIRST).status == 0
    assert models("show", "tiny").out.startswith("mine-1\n")


def test_one_that_lacks_something(models: Av2t, models_dir: Path) -> None:
    shutil.rmtree(models_dir / FIRST)
    assert f"loads onto {FIRST}, which is not in" in models("show", SECOND).out
    assert models("list", "--project", 3).status == 0


def test_two_side_by_side(models: Av2t) -> None:
    said = models("compare", FIRST, SECOND)
    rows = {row[0]: row[1:] for row in said.table if row}
    assert rows[FIRST] == [SECOND]
    assert rows["IoU where something sounds"] == ["65.0 %", "66.0 %"]
    assert rows["IoU where something sounds, before it"] == ["40.0 %", "65.0 %"]
    assert rows["clips trained on"] == ["14", "15"]
    assert "They were judged on different clips, 5 of which are the same" in said.out
    assert "Clips that both were trained on: 14." in said.out
    assert "Clips that one of them was trained on and the other judged by: 1." in said.out
    found = json.loads(models("compare", FIRST, SECOND, "--json").out)
    assert found["clips_in_common"] == {"training": 14, "held out": 5}
    assert [each["name"] for each in found["versions"]] == [FIRST, SECOND]


def test_what_is_not_there_is_refused(models: Av2t) -> None:
    for words in (("show", "mine-9"), ("compare", FIRST, "mine-9"), ("export", "mine-9", "x.zip")):
        assert f"there is no model version 'mine-9'; there are {FIRST}, {SECOND}, {', '.join(SHIPPED)}" in refused(
            models(*words)
        )


# What is changed, where neither Label Studio nor Redis is


def test_promoted_and_taken_back(models: Av2t, models_dir: Path) -> None:
    said = models("promote", FIRST, "--project", 3)
    assert said.out == f"Project 3 uses {FIRST}; `av2t models rollback --project 3` goes back to {EMBEDDED}\n"
    assert said.err.startswith(
        "av2t: Label Studio was not told, and no task was queued: LABEL_STUDIO_API_KEY is not set"
    )
    models("promote", SECOND, "--project", 3)
    assert current(models_dir, 3) == SECOND
    said = models("rollback", "--project", 3)
    assert (said.status, said.out) == (0, f"Project 3 uses {FIRST} again, and no longer {SECOND}\n")
    models("rollback", "--project", 3)
    assert "project 3 has no earlier model version" in refused(models("rollback", "--project", 3))
    assert "there is no model version 'tiny'" in refused(models("promote", "tiny", "--project", 3))


def test_deleted(models: Av2t, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{SECOND} loads onto {FIRST}" in refused(models("delete", FIRST))
    promote(models_dir, 3, SECOND)
    assert "is the current model version of project 3" in refused(models("delete", SECOND))
    promote(models_dir, 3, EMBEDDED)
    monkeypatch.setenv("AV2T_MODEL", SECOND)
    assert f"AV2T_MODEL is {SECOND}: set it to another one first" in refused(models("delete", SECOND))
    monkeypatch.delenv("AV2T_MODEL")
    assert models("delete", SECOND).out == f"{SECOND} is gone, and 1 kB with it\n"
    assert find(SECOND, models_dir) is None


def test_from_one_machine_to_another(
    models: Av2t, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (FIRST, SECOND):
        said = models("export", name, tmp_path / f"{name}.zip")
        assert said.status == 0
    assert said.out.startswith(f"{tmp_path / SECOND}.zip holds {SECOND}, ")
    assert said.out.endswith(f"; the other machine needs {FIRST}, too\n")
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "other"))
    assert f"loads onto {FIRST}, which is not in" in refused(models("import", tmp_path / f"{SECOND}.zip"))
    assert models("import", tmp_path / f"{FIRST}.zip").out == (
        f"{FIRST} is in {tmp_path / 'other/models'}: `av2t models show {FIRST}` tells of it,"
        f" `av2t models promote {FIRST} --project 3` has a project use it\n"
    )
    assert models("import", tmp_path / f"{SECOND}.zip").status == 0
    assert models("import", tmp_path / f"{SECOND}.zip").out == f"{SECOND} is in {tmp_path / 'other/models'} already\n"


# What Label Studio is told


@pytest.fixture
def project(label_studio: LabelStudioServer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A project that the backend knows of, which is away."""
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    monkeypatch.setenv("REDIS_URL", redis_url)
    project = int(label_studio.make_project(CONFIG).id)
    yield project
    label_studio.request("DELETE", f"/api/projects/{project}")


def test_label_studio_is_told_and_what_nobody_has_touched_is_queued(
    models: Av2t,
    label_studio: LabelStudioServer,
    project: int,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    high, low, labelled, _without = label_studio.add_tasks(project, 4)
    for task, score in ((high, 0.9), (low, 0.1), (labelled, 0.5)):
        label_studio.sdk.predictions.create(task=task, result=[], score=score, model_version=EMBEDDED)
        note_score(redis, project, task, score)
    label_studio.sdk.annotations.create(id=labelled, result=[])
    with running(os.environ["REDIS_URL"], tmp_path / "log", AV2T_DATA_DIR=str(tmp_path / "data")) as backend:
        connection = {"project": project, "url": backend.url, "title": "AV2T-SAM"}
        connected = label_studio.request("POST", "/api/ml", json=connection).json()["id"]

        said = models("promote", FIRST, "--project", project)
        assert said.err == ""
        assert said.out.splitlines()[1:] == [f"Tasks queued for {FIRST}: 2"]
        assert queued_tasks(redis) == [low, high]

        monkeypatch.setenv("AV2T_REPREDICT", "ask")
        said = models("promote", SECOND, "--project", project)
        assert f"`av2t submit --project {project} --only-unlabeled` has them predicted by {SECOND}" in said.err
        assert queued_tasks(redis) == [low, high]
    # While the backend runs, Label Studio would ask it now.
    assert label_studio.request("GET", f"/api/ml/{connected}").json()["model_version"] == SECOND


def test_a_project_that_is_pinned_is_told(models: Av2t, project: int, redis: Redis) -> None:
    keep(redis, Project(id=project, label_config=CONFIG, chosen=EMBEDDED))
    said = models("promote", FIRST, "--project", project)
    assert f"in Label Studio the project is pinned to {EMBEDDED} and goes on with that" in said.err
