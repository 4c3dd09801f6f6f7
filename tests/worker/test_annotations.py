"""Which annotation of a task counts, and what becomes of a project's tasks: against a real Label Studio."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from av2t_core.errors import AV2TError
from av2t_core.labelstudio.annotations import read_annotation
from av2t_core.labelstudio.label_config import parse_label_config
from av2t_core.labelstudio.regions import keyframe_regions
from av2t_core.prediction.objects import Detection
from tests.conftest import LabelStudioServer
from tests.worker.conftest import client_of
from worker.client.annotations import AnnotatedTask, Skipped, annotated_tasks, chosen
from worker.client.label_studio import Annotation, LabelStudioClient
from worker.settings import Settings

CONFIG = """<View><Video name="video" value="$video"/>
<{tag} name="mask" toName="frames"><Label value="dog"/></{tag}>
<Image name="frames" valueList="$frames"/></View>"""
TARGETS = parse_label_config(CONFIG.format(tag="BrushLabels"))
SHAPE = (24, 32)
SETTINGS = Settings()


def annotation(id: int, minute: int, *, ground_truth: bool = False, was_cancelled: bool = False) -> Annotation:
    return Annotation(
        id=id,
        updated_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        ground_truth=ground_truth,
        was_cancelled=was_cancelled,
        result=[],
    )


def test_the_one_marked_as_ground_truth_counts_and_else_the_newest() -> None:
    old, marked, new = annotation(1, 1), annotation(2, 2, ground_truth=True), annotation(3, 3)
    skipped = annotation(4, 4, was_cancelled=True, ground_truth=True)
    everything = [new, skipped, old, marked]
    assert chosen(everything, "ground-truth") is marked
    assert chosen(everything, "newest") is new
    assert chosen([new, old], "ground-truth") is new
    assert chosen([skipped], "newest") is None
    assert chosen([], "ground-truth") is None


def test_of_those_changed_at_the_same_time_the_later_one_counts() -> None:
    assert chosen([annotation(2, 1), annotation(1, 1)], "newest") == annotation(2, 1)


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with client_of(label_studio.url, label_studio.api_key) as client:
        yield client


@pytest.fixture
def project(label_studio: LabelStudioServer) -> int:
    return int(label_studio.make_project(CONFIG.format(tag="BrushLabels")).id)


def mask() -> np.ndarray[Any, np.dtype[np.bool_]]:
    full = np.zeros(SHAPE, bool)
    full[3:9, 5:20] = True
    return full


def regions(task: int, origin: str) -> list[dict[str, Any]]:
    thing = Detection(names={"dog": 0.9}, score=0.9, mask=mask())
    found = keyframe_regions(TARGETS, task=task, model_version="v", page=1, time=1.9375, objects=[thing])
    return [{**each, "origin": origin} for each in found]


def add_task(label_studio: LabelStudioServer, project: int, **data: Any) -> int:
    whole = {"video": "/data/a.mp4", "frames": ["/data/0.jpg", "/data/1.jpg"], **data}
    response = label_studio.request("POST", "/api/tasks/", json={"project": project, "data": whole})
    return int(response.json()["id"])


def annotate(label_studio: LabelStudioServer, task: int, result: list[dict[str, Any]], **fields: Any) -> int:
    body = {"result": result, **fields}
    return int(label_studio.request("POST", f"/api/tasks/{task}/annotations/", json=body).json()["id"])


def test_every_clips_use_or_why_it_has_none(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int
) -> None:
    accepted, silent, two, skipped, bare, uneven = (add_task(label_studio, project) for _ in range(6))
    add_task(label_studio, project)  # which nobody has touched
    expected = {
        accepted: annotate(label_studio, accepted, regions(accepted, "prediction")),
        silent: annotate(label_studio, silent, []),
        two: annotate(label_studio, two, regions(two, "manual"), ground_truth=True),
    }
    newest = annotate(label_studio, two, [])
    annotate(label_studio, two, [], was_cancelled=True)
    annotate(label_studio, skipped, [], was_cancelled=True)
    for task, data in ((bare, {"video": "/data/a.mp4"}), (uneven, {"frames": ["/data/0.jpg"]})):
        annotate(label_studio, task, [])
        label_studio.request("PATCH", f"/api/tasks/{task}/", json={"data": data})

    found = list(annotated_tasks(client, project, TARGETS, SETTINGS))
    usable = [each for each in found if isinstance(each, AnnotatedTask)]
    assert {each.task: each.annotation for each in usable} == expected
    assert {(each.url, each.pages) for each in usable} == {("/data/a.mp4", 2)}
    assert [each.origins["prediction"] for each in usable] == [1, 0, 0]
    assert [each.origins["manual"] for each in usable] == [0, 0, 1]
    first, second, third = (read_annotation(TARGETS, each.result, shape=SHAPE, pages=each.pages) for each in usable)
    for masks in (first, third):
        assert list(masks) == [1]
        assert (masks[1] == mask()).all()
    assert not second
    assert [each for each in found if isinstance(each, Skipped)] == [
        Skipped(task=skipped, reason="It was skipped."),
        Skipped(task=bare, reason='It has no frames in "frames", so nobody could draw on them.'),
        Skipped(
            task=uneven,
            reason=f'Task {uneven} has no "video", from which Video "video" takes its clip; import the clip again or'
            " correct the task's data.",
        ),
    ]
    newer = annotated_tasks(client, project, TARGETS, SETTINGS.model_copy(update={"annotations_by": "newest"}))
    assert [each.annotation for each in newer if isinstance(each, AnnotatedTask)][2] == newest


def test_what_is_deleted_meanwhile_is_said(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int
) -> None:
    stays, task, other = (add_task(label_studio, project) for _ in range(3))
    _, _, gone = (annotate(label_studio, each, []) for each in (stays, task, other))
    found = annotated_tasks(client, project, TARGETS, SETTINGS)
    assert isinstance(next(found), AnnotatedTask)
    label_studio.sdk.tasks.delete(id=str(task))
    label_studio.request("DELETE", f"/api/annotations/{gone}/")
    assert list(found) == [
        Skipped(task=task, reason="It was deleted meanwhile."),
        Skipped(task=other, reason="Its annotation was deleted meanwhile."),
    ]


def test_lists_of_frames_of_different_lengths(client: LabelStudioClient, label_studio: LabelStudioServer) -> None:
    config = CONFIG.format(tag="BrushLabels").replace(
        "</View>",
        '<PolygonLabels name="outline" toName="more"><Label value="dog"/></PolygonLabels>'
        '<Image name="more" valueList="$more"/></View>',
    )
    project = int(label_studio.make_project(config).id)
    task = add_task(label_studio, project, more=["/data/0.jpg"])
    annotate(label_studio, task, [])
    assert list(annotated_tasks(client, project, parse_label_config(config), SETTINGS)) == [
        Skipped(task=task, reason="It has lists of 1 and 2 frames, which must be of one length.")
    ]


def test_a_project_without_anything_to_draw_masks_with(client: LabelStudioClient, project: int) -> None:
    targets = parse_label_config(CONFIG.format(tag="RectangleLabels"))
    with pytest.raises(AV2TError, match=r"has RectangleLabels, with which nobody can draw .* AV2T_BOX_HINTS=true"):
        next(annotated_tasks(client, project, targets, SETTINGS))
    boxes = SETTINGS.model_copy(update={"boxes_are_masks": True})
    assert list(annotated_tasks(client, project, targets, boxes)) == []
