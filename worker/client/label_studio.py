"""Label Studio as jobs need it: clips and annotations in, frames and predictions out. For its errors see `api`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from heapq import merge
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Generic, Self, TypeVar, get_args

from pydantic import BeforeValidator

from av2t_core.errors import AV2TError, MediaError
from av2t_core.labelstudio.label_config import Video
from av2t_core.labelstudio.task_data import fill, look_up
from worker.client.api import Api, SlowError
from worker.client.media import ClipCache, Media
from worker.failures import GoneError, TransientError
from worker.queue import heartbeat
from worker.settings import Settings

# Label Studio takes at most 100 files and 250 MB in one request as it comes.
FILES_IN_A_REQUEST = 20
# Tasks on a page of a project's list. Pages grow while they come quickly, and shrink where they come slowly (seconds).
FIRST_PAGE, LARGEST_PAGE = 20, 100
QUICK, SLOW = 1.0, 5.0
# A storage's URIs stay what they are: what they are resolved to does not last, and `set_task_data` writes back what it
# has read.
UNRESOLVED = {"resolve_uri": "false"}


def _versions(listed: str | None) -> frozenset[str]:
    """They stand separated by commas, and on PostgreSQL by spaces, too."""
    return frozenset(filter(None, map(str.strip, (listed or "").split(","))))


def _regions(result: list[Any] | None) -> list[Any]:
    """Those of an annotation, as Label Studio has them, but for the model's score where a person changed the region:
    Label Studio leaves it there, and it is of what was predicted."""
    for region in result or []:
        if isinstance(region, dict) and region.get("origin") == "prediction-changed":
            region.pop("score", None)
    return result or []


@dataclass(frozen=True, kw_only=True)
class Task:
    id: int
    project: int
    data: Mapping[str, Any]

    def clip_url(self, video: Video) -> str:
        """Where that tag takes the task's clip from. MediaError: the task does not say."""
        try:
            return fill(self.data, video.value).strip()  # as browsers take a URL
        except ValueError as error:
            raise MediaError(
                f'Task {self.id} has no "{error}", from which Video "{video.name}" takes its clip; import the clip'
                " again or correct the task's data."
            ) from None

    def frames(self, variable: str) -> list[Any]:
        """The URLs that an Image shows as its pages; empty where the task has none yet. MediaError: it has no URLs."""
        found = look_up(self.data, variable)
        if not isinstance(found, list | str) and found:
            raise MediaError(
                f'Task {self.id} has {str(found)[:40]!r} as its "{variable}", where a list of frames belongs; empty it'
                " in the task's data."
            )
        return [found] if found and isinstance(found, str) else found or []


@dataclass(frozen=True, kw_only=True)
class LabelledTask(Task):
    """A task that somebody has submitted or skipped.

    `updated_at` changes with whatever is done to it: an annotation is made, changed, marked as ground truth, skipped or
    deleted, and also its data or its predictions.
    """

    updated_at: datetime
    total_annotations: int  # without those by which it was skipped
    cancelled_annotations: int


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """A task without its data."""

    id: int
    total_annotations: int
    cancelled_annotations: int
    draft_exists: bool
    predictions_model_versions: Annotated[frozenset[str], BeforeValidator(_versions)]
    file_upload: str | None = None

    @property
    def labelled(self) -> bool:
        return bool(self.total_annotations)

    @property
    def touched(self) -> bool:
        """It has an annotation, or one was begun, or the task was skipped."""
        return bool(self.total_annotations or self.cancelled_annotations or self.draft_exists)

    @property
    def file(self) -> str:
        """The name of the file that it was made from, before which Label Studio puts 8 hex digits and a dash; or ""."""
        return (self.file_upload or "").partition("-")[2]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What somebody has submitted for a task.

    `updated_at` changes when it is edited and when it is marked as ground truth; not when it ceases to be that, because
    another one of its task, of which there is one at most, was marked.
    """

    id: int
    updated_at: datetime
    ground_truth: bool
    was_cancelled: bool  # the task was skipped
    result: Annotated[Sequence[Any], BeforeValidator(_regions)]


Row = TypeVar("Row", LabelledTask, TaskState)


@dataclass(frozen=True)
class _Page(Generic[Row]):
    total: int
    tasks: list[Row]


@dataclass(frozen=True)
class _Project:
    label_config: str | None


@dataclass(frozen=True)
class _Prediction:
    id: int
    model_version: str | None


@dataclass(frozen=True)
class _Upload:
    id: int
    file: str


class LabelStudioClient:
    """One Label Studio and one key, as a context manager. `fetch` and `probe` are those of `Media`."""

    def __init__(self, settings: Settings, cache: ClipCache | None = None) -> None:
        """ConfigError: the settings have no key, or one that cannot be used."""
        self.api = Api(settings.label_studio_url, settings.require_api_key())
        media = Media(self.api, settings, cache)
        self.fetch, self.probe, self.close = media.fetch, media.probe, self.api.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> str:
        """The e-mail address of the key's owner: Label Studio is there and takes the key."""
        return self.api.ask("GET", "/api/current-user/whoami", "the account", str, field="email")

    def is_connected(self, project: int) -> bool:
        """Whether the project has an ML backend, of which Label Studio then asks which model version it has. GoneError
        where there is no such project any more."""
        self.api.tell("GET", f"/api/projects/{project}/", f"project {project}", gone=True)
        params = {"project": project}
        return bool(self.api.ask("GET", "/api/ml", f"project {project}", list[Any], params=params))

    def label_config(self, project: int) -> str:
        return self.api.ask("GET", f"/api/projects/{project}/", f"project {project}", _Project).label_config or ""

    def task(self, task: int) -> Task:
        """Raises GoneError where there is none any more."""
        return self.api.ask("GET", f"/api/tasks/{task}/", f"task {task}", Task, gone=True, params=UNRESOLVED)

    def tasks(self, project: int) -> Iterator[TaskState]:
        """The project's tasks in the order of their ids, page by page."""
        return self._listed(project, _Page[TaskState])

    def labelled_tasks(self, project: int) -> Iterator[LabelledTask]:
        """The project's tasks that have an annotation or were skipped, in the order of their ids, page by page."""
        annotated = [_condition("total_annotations", "greater", 0)]
        skipped = [_condition("total_annotations", "equal", 0), _condition("cancelled_annotations", "greater", 0)]
        # Two lists, for among conditions Label Studio has no "or" beside the "and" that pages need.
        both = (self._listed(project, _Page[LabelledTask], *conditions) for conditions in (annotated, skipped))
        return merge(*both, key=lambda task: task.id)

    def _listed(self, project: int, shape: type[_Page[Row]], *conditions: Mapping[str, object]) -> Iterator[Row]:
        """The project's tasks that fulfil the conditions, in the order of their ids, with the shape's fields alone: all
        predictions of a clip are hundreds of kilobytes.

        Whichever the fields, Label Studio reads all annotations and predictions of a page's tasks: where a task has
        9 MB of them, that takes it half a second and 70 MB for each. A page begins after the last one's ids, not at an
        offset, so that no task is passed over when another one goes meanwhile.
        """
        include = ",".join(field.name for field in fields(get_args(shape)[0]))
        size, last = FIRST_PAGE, 0
        while True:
            heartbeat.beat()
            filters = {"conjunction": "and", "items": [_condition("id", "greater", last), *conditions]}
            query = json.dumps({"filters": filters, "ordering": ["id"]})
            params = {"project": project, "fields": "all", "include": include, "page_size": size, "query": query}
            params |= UNRESOLVED
            began = monotonic()
            try:
                page = self.api.ask("GET", "/api/tasks", f"the tasks of project {project}", shape, params=params)
            except SlowError:
                if size == 1:
                    raise
                size = max(size // 4, 1)
                continue
            took = monotonic() - began
            yield from page.tasks
            if page.total <= len(page.tasks):
                return
            last = page.tasks[-1].id
            if took < QUICK:
                size = min(2 * size, LARGEST_PAGE)
            elif took > SLOW:
                size = max(size // 2, 1)

    def annotations(self, task: int) -> list[Annotation]:
        """What was submitted for the task, the oldest first; not drafts, nor that it was skipped. GoneError."""
        about = f"the annotations of task {task}"
        return self.api.ask("GET", f"/api/tasks/{task}/annotations/", about, list[Annotation], gone=True)

    def set_task_data(self, task: int, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Set what `change` returns for the task's present data, and leave the rest of it as it is. GoneError."""
        data = self.task(task).data  # read again, for a job runs for minutes and people work meanwhile
        changed = {**data, **change(data)}
        if changed != data:
            self.api.tell("PATCH", f"/api/tasks/{task}/", f"task {task}", gone=True, json={"data": changed})

    def prediction(self, task: int, model_version: str) -> int | None:
        """The id of the one prediction of this model version that the task has afterwards; None: it has none.

        Label Studio takes any number of them. Where another worker was given the same task after a long silence of this
        one, both come here, and both keep the oldest.
        """
        path, about = "/api/predictions/", f"the predictions of task {task}"
        # Label Studio sends their regions along: thousands of masks, which are hundreds of megabytes as objects.
        options: dict[str, Any] = {"params": {"task": task}}
        options["object_hook"] = lambda each: each if "model_version" in each else None
        found = self.api.ask("GET", path, about, list[_Prediction], **options)
        ids = sorted(each.id for each in found if each.model_version == model_version)
        for other in ids[1:]:
            with suppress(GoneError):
                self.api.tell("DELETE", f"/api/predictions/{other}/", f"prediction {other}", gone=True)
        return ids[0] if ids else None

    def create_prediction(self, task: int, model_version: str, score: float, result: Sequence[str]) -> int:
        """The id of the one prediction of this model version that the task has afterwards.

        `result`: its regions, as JSON lists without their brackets, in ASCII. They are never objects all at once.
        """
        head = json.dumps({"task": task, "model_version": model_version, "score": score})[:-1]
        regions = [part for each in result for part in (",", each)][1:]
        body = [f'{head}, "result": [', *regions, "]}"]
        headers = {"Content-Type": "application/json", "Content-Length": str(sum(map(len, body)))}
        content = (part.encode("ascii") for part in body)
        try:
            about = f"the prediction of task {task}"
            self.api.tell("POST", "/api/predictions/", about, content=content, headers=headers)
        except AV2TError:
            self.task(task)  # for a task that is gone Label Studio answers 400, as for a mistake of ours
            raise
        stored = self.prediction(task, model_version)
        if stored is None:
            raise TransientError(f"Label Studio took the prediction of task {task} and does not list it.")
        return stored

    def upload_frames(self, project: int, frames: Sequence[Path], *, reuse: bool) -> list[str]:
        """The URLs of the frames, in their order. `reuse` looks first for those that an earlier try brought there."""
        urls = self._uploaded(project, None) if reuse else {}
        missing = [frame for frame in frames if frame.name not in urls]
        for start in range(0, len(missing), FILES_IN_A_REQUEST):
            heartbeat.beat()
            ids = self._import(project, missing[start : start + FILES_IN_A_REQUEST])
            urls |= self._uploaded(project, ids)
        try:
            return [urls[frame.name] for frame in frames]
        except KeyError as error:
            sentence = f"Label Studio took frame {error} of project {project} and does not list it."
            raise TransientError(sentence) from None

    def _import(self, project: int, frames: Sequence[Path]) -> list[int]:
        # Of several files in one field Label Studio keeps the last: each gets its own.
        files = {frame.name: (frame.name, frame.read_bytes(), "image/jpeg") for frame in frames}
        path, about = f"/api/projects/{project}/import?commit_to_project=false", f"the frames of project {project}"
        return self.api.ask("POST", path, about, list[int], field="file_upload_ids", files=files)

    def _uploaded(self, project: int, ids: Sequence[int] | None) -> dict[str, str]:
        """Name → URL of these uploads of the project, or of all of them; of equal names the oldest."""
        params = {"all": "true"} if ids is None else {"ids": json.dumps(ids)}
        path, about = f"/api/projects/{project}/file-uploads", f"the uploads of project {project}"
        uploads = self.api.ask("GET", path, about, list[_Upload], params=params)
        # Label Studio stores "name" as "upload/<project>/<8 hex digits>-name".
        uploads.sort(key=lambda upload: -upload.id)
        return {each.file.rpartition("/")[2].partition("-")[2]: f"/data/{each.file}" for each in uploads}


def _condition(field: str, operator: str, value: int) -> dict[str, object]:
    """Of tasks, as Label Studio's data manager writes it."""
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": "Number", "value": value}
