"""The whole circle: pre-annotated, corrected, trained by a button of Label Studio's page, and better afterwards.

Of four things that the model which ships with the package does not find: 20 clips are corrected, and 20 others say what
that was worth. "Old" are clips of what it may know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser

from av2t_core.data.composed_clip import in_order, write_drawn_clip
from av2t_core.data.cutouts import Cutouts
from av2t_core.finetuning.judging import Keyframes, Metrics, judge_clip
from av2t_core.labelstudio.controls.brush import BrushLabels
from av2t_core.media.clip import Clip
from av2t_core.prediction.predictor import Predictor
from av2t_core.versions.version import resolve
from tests.conftest import SHIPPED, wait_until
from tests.e2e.conftest import BY_DEFAULT
from tests.e2e.labelling_page import LabellingPage
from tests.up import Up, options, ports

pytestmark = [pytest.mark.browser, pytest.mark.circle, pytest.mark.timeout(3600)]

LATER = ("camel", "koala", "squirrel", "vulture")
CORRECTED, OTHERS, UNTOUCHED = 20, 20, 3
VERSION = SHIPPED[0]  # what a person gets

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A clip whose truth is known: by the number of the keyframe, the mask of what sounds, and what that is."""

    path: Path
    masks: Mapping[int, Mask]
    labels: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Sets:
    corrected: Sequence[Composed]
    untouched: Sequence[Composed]
    others: Sequence[Composed]
    old: Sequence[Composed]


@pytest.fixture(scope="module")
def sets(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("composed")
    later, old = (Cutouts.load(shared / "cutouts", kind) for kind in ("later", "sounding"))
    clips = _compose(folder / "project", later, CORRECTED + UNTOUCHED, seed=1)
    return Sets(
        corrected=clips[:CORRECTED],
        untouched=clips[CORRECTED:],
        others=_compose(folder / "others", later, OTHERS, seed=2),
        old=_compose(folder / "old", old.part("test"), OTHERS, seed=3),
    )


def _compose(out: Path, cutouts: Cutouts, count: int, seed: int) -> list[Composed]:
    out.mkdir()
    write = partial(write_drawn_clip, out, cutouts, seed, 3, 5, (320, 240), 8)
    in_order(write, count, len(os.sched_getaffinity(0)), lambda: None)
    return [_composed(path) for path in sorted(out.glob("*.mp4"))]


def _composed(path: Path) -> Composed:
    masks = {int(file.stem): np.asarray(Image.open(file)) > 0 for file in (path.with_suffix("") / "masks").iterdir()}
    truth = json.loads((path.with_suffix("") / "truth.json").read_text())
    sounding = [tuple(label for label in second if label in truth["in_view"]) for second in truth["sounding"]]
    return Composed(
        path=path,
        masks={index: mask for index, mask in masks.items() if mask.any()},
        labels=dict(enumerate(sounding)),
    )


def _judged(predictor: Predictor, clips: Sequence[Composed]) -> Metrics:
    found: list[Keyframes] = []
    for each in clips:
        with Clip(each.path) as clip:
            found.append(judge_clip(predictor, clip.windows(), each.masks))
    return Metrics.of(found)


@dataclass(frozen=True, kw_only=True)
class Studio:
    """`av2t up` with the clips in a project."""

    up: Up
    url: str
    backend: str
    project: int
    api_key: str
    email: str
    password: str

    def call(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Token {self.api_key}"}
        response = httpx.request(method, self.url + path, headers=headers, timeout=60, **options)
        response.raise_for_status()
        return response.json()

    def tasks(self) -> dict[str, dict[str, Any]]:
        """By the name of the clip."""
        found = self.call("GET", "/api/tasks", params={"project": self.project, "fields": "all", "page_size": 100})
        return {Path(task["file_upload"].partition("-")[2]).stem: task for task in found["tasks"]}

    def prediction(self, task: Mapping[str, Any]) -> Any:
        [prediction] = self.call("GET", "/api/predictions/", params={"task": task["id"]})
        return prediction

    def correct(self, task: Mapping[str, Any], clip: Composed) -> None:
        """What is masked is what sounds, and nothing else; of two things at once one gives its name to both."""
        regions = []
        for page, mask in clip.masks.items():
            [value] = BrushLabels().write(mask)
            height, width = mask.shape
            regions.append(
                {
                    **{"id": f"page{page}", "from_name": "mask", "to_name": "frames", "type": "brushlabels"},
                    **{"item_index": page, "original_width": width, "original_height": height, "image_rotation": 0},
                    "value": {**value, "brushlabels": [clip.labels[page][0]]},
                }
            )
        self.call("POST", f"/api/tasks/{task['id']}/annotations", json={"result": regions})


@pytest.fixture(scope="module")
def studio(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder, data_dir = sets.corrected[0].path.parent, tmp_path_factory.mktemp("up") / "data"
    (folder / "labels.txt").write_text("\n".join(LATER) + "\n")
    chosen = ports()
    with Up(data_dir, "--demo", "--demo-clips", str(folder), *options(chosen), environment=BY_DEFAULT) as up:
        up.wait_for("Ctrl-C stops", timeout=900)
        account = json.loads((data_dir / "label-studio-account.json").read_text())
        yield Studio(
            up=up,
            url=f"http://127.0.0.1:{chosen['--label-studio-port']}",
            backend=f"http://127.0.0.1:{chosen['--backend-port']}",
            project=int(up.wait_for(r"demo: project (\d+)")[1]),
            **account,
        )


@pytest.fixture(scope="module")
def page(chromium: Browser, studio: Studio) -> LabellingPage:
    page = LabellingPage(chromium.new_page(viewport={"width": 1500, "height": 1250}), studio.url)
    page.log_in(studio.email, studio.password)
    return page


def test_what_people_correct_makes_the_next_masks_better(
    sets: Sets, studio: Studio, page: LabellingPage, screenshots: Path
) -> None:
    models_dir = studio.up.data_dir / "models"
    before = Predictor.load(VERSION, "cpu")
    new_before, old_before = _judged(before, sets.others), _judged(before, sets.old)

    tasks = studio.tasks()
    by_brush = next(clip for clip in sets.corrected if studio.prediction(tasks[clip.path.stem])["result"])
    for clip in sets.corrected:
        if clip is not by_brush:
            studio.correct(tasks[clip.path.stem], clip)
    _correct_by_brush(page, studio, tasks[by_brush.path.stem], by_brush)
    page.page.screenshot(path=screenshots / "fine-tuning-corrected.png")

    page.start_training(studio.project)
    page.page.screenshot(path=screenshots / "fine-tuning-started.png")
    [job] = _trainings(studio)
    ended = wait_until(lambda: _ended(studio, job["job"]), 1800, "the end of the training")
    assert ended["state"] == "done", ended
    assert ended["result"]["promoted"], ended["result"]["sentence"]
    version = resolve(ended["result"]["version"], models_dir)
    assert version.name.startswith(f"{VERSION}-p{studio.project}-")

    after = Predictor.load(version.name, "cpu", models_dir=models_dir)
    new_after, old_after = _judged(after, sets.others), _judged(after, sets.old)
    print(f"\nnew: {new_before} -> {new_after}\nold: {old_before} -> {old_after}")
    card = version.card.as_json()
    print(f"trained in {card['seconds']} s: {card['verdict']['sentence']}")
    assert _gain(new_before, new_after) >= 0.25
    assert _gain(old_before, old_after) >= -0.02
    named = _named(after, sets.others)
    print(f"named right: {named:.2f}")
    assert named >= 0.6  # by chance a quarter, and without learning none: the model has no such names

    # The label stream shows what the new version says of a clip that nobody has touched.
    wait_until(lambda: _predicted(studio, sets.untouched, version.name), 300, "the new predictions")
    page.open_label_stream(studio.project)
    page.page.screenshot(path=screenshots / "fine-tuning-label-stream.png")
    shown = studio.call("GET", f"/api/projects/{studio.project}/next")
    assert {each["model_version"] for each in shown["predictions"]} == {version.name}


def _correct_by_brush(page: LabellingPage, studio: Studio, task: Mapping[str, Any], clip: Composed) -> None:
    """A person goes with the brush over what the first mask on the page lacks, and submits."""
    page.open_task(studio.project, task["id"])
    page.select_region(0)
    number = studio.prediction(task)["result"][0]["item_index"]
    mask = clip.masks.get(number)
    rows, columns = np.nonzero(mask) if mask is not None else (np.array([60]), np.array([80]))
    shape = mask.shape if mask is not None else (240, 320)
    middle = int(np.median(rows))
    across = columns[rows == middle]
    view = page.view()
    page.brush(view.on_screen(middle, across.min(), shape), view.on_screen(middle, across.max(), shape))
    page.submit()


def _named(predictor: Predictor, clips: Sequence[Composed]) -> float:
    """Of the keyframes that are masked and where one thing sounds: how many have its name on the largest part."""
    right = []
    for each in clips:
        with Clip(each.path) as clip:
            for number, seen in enumerate(predictor.predict_clip(clip.windows(), LATER)):
                if seen.objects and len(each.labels[number]) == 1:
                    largest = max(seen.objects, key=lambda thing: int(thing.mask.sum()))
                    right.append(next(iter(largest.names)) == each.labels[number][0])
    return sum(right) / len(right)


def _trainings(studio: Studio) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{studio.backend}/status.json", timeout=30).json()["trainings"]
    return found


def _ended(studio: Studio, job: str) -> dict[str, Any] | None:
    told: dict[str, Any] = httpx.get(f"{studio.backend}/train/{job}", timeout=30).json()
    return told if told["state"] in ("done", "failed") else None


def _gain(before: Metrics, after: Metrics) -> float:
    assert before.sounding_iou is not None
    assert after.sounding_iou is not None
    return after.sounding_iou - before.sounding_iou


def _predicted(studio: Studio, clips: Sequence[Composed], version: str) -> bool:
    tasks = studio.tasks()
    return all(version in {each["model_version"] for each in tasks[clip.path.stem]["predictions"]} for clip in clips)
