"""A project's annotations, as a training takes them: for each clip the one that counts, or why there is none."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from av2t.remedies import told
from av2t_core.errors import AV2TError, MediaError
from av2t_core.labelstudio.annotations import AnnotationError, can_hold_masks, count_origins, image_tags
from av2t_core.labelstudio.label_config import Targets
from worker.client.label_studio import Annotation, LabelledTask, LabelStudioClient
from worker.failures import GoneError
from worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class AnnotatedTask:
    """A task whose annotation counts. Nothing of it is decoded, so it may still prove unusable.

    `updated_at`: of the annotation. `pages`: how many frames people saw, which must be the clip's keyframes. `origins`:
    see `count_origins`. `packed`: the result, for those of a large project are gigabytes as Python has them.
    """

    task: int
    url: str  # of the clip
    annotation: int
    updated_at: datetime
    pages: int
    origins: Mapping[str, int]
    packed: bytes

    @property
    def result(self) -> Sequence[Any]:
        """The annotation's regions, as Label Studio has them."""
        found: list[Any] = json.loads(zlib.decompress(self.packed))
        return found


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A task that somebody has submitted or skipped and that a training cannot learn from. `reason`: a sentence."""

    task: int
    reason: str


def chosen(annotations: Sequence[Annotation], prefer: Literal["ground-truth", "newest"]) -> Annotation | None:
    """The annotation of a task that counts, if there is one: the newest, or before all others the one that is marked as
    ground truth. One by which the task was skipped never does; one without regions says that nothing sounds."""
    return max(
        (each for each in annotations if not each.was_cancelled),
        key=lambda each: (prefer == "ground-truth" and each.ground_truth, each.updated_at, each.id),
        default=None,
    )


def annotated_tasks(
    client: LabelStudioClient, project: int, targets: Targets, settings: Settings
) -> Iterator[AnnotatedTask | Skipped]:
    """Every task that somebody has submitted or skipped, in the order of their ids, one in memory at a time.

    AV2TError: the project has nothing to draw masks with, or Label Studio refuses; TransientError.
    """
    if not can_hold_masks(targets, boxes=settings.boxes_are_masks):
        have = ", ".join(dict.fromkeys(control.tag.name for control in targets.controls))
        masks = ", ".join(tag.name for tag in image_tags() if tag.holds_masks)
        boxes = ", ".join(tag.name for tag in image_tags() if not tag.holds_masks)
        raise AV2TError(
            f"The label config of project {project} has {have}, with which nobody can draw masks to learn from: give"
            f" it one of {masks}, or for {boxes} set AV2T_BOX_HINTS=true."
        )
    for task in client.labelled_tasks(project):
        try:
            yield _annotated(client, task, targets, settings)
        except GoneError:
            yield Skipped(task=task.id, reason="It was deleted meanwhile.")
        except (AnnotationError, MediaError) as error:
            yield Skipped(task=task.id, reason=told(error))


def _annotated(client: LabelStudioClient, task: LabelledTask, targets: Targets, settings: Settings) -> AnnotatedTask:
    url = task.clip_url(targets.video)
    annotation = chosen(client.annotations(task.id), settings.annotations_by) if task.total_annotations else None
    if annotation is None:
        raise AnnotationError(
            "It was skipped." if task.cancelled_annotations else "Its annotation was deleted meanwhile."
        )
    counts = set()
    for variable in targets.frame_variables:
        frames = task.frames(variable)
        if not frames:  # An empty annotation would say nothing.
            raise AnnotationError(f'It has no frames in "{variable}", so nobody could draw on them.')
        counts.add(len(frames))
    if len(counts) != 1:
        lengths = " and ".join(map(str, sorted(counts)))
        raise AnnotationError(f"It has lists of {lengths} frames, which must be of one length.")
    return AnnotatedTask(
        task=task.id,
        url=url,
        annotation=annotation.id,
        updated_at=annotation.updated_at,
        pages=counts.pop(),
        origins=count_origins(targets, annotation.result),
        packed=zlib.compress(json.dumps(annotation.result, separators=(",", ":")).encode(), 1),
    )
