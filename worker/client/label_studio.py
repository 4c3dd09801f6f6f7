"""Label Studio, as the worker's jobs need it: clips and annotations in, frames and predictions out.

Every failure leaves here as one of three: AV2TError (nobody helps it by trying again), TransientError (may pass), or
GoneError; `answers` says which answer is what. No message carries a token, a header or the query of a URL, which
may hold a signature.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from pathlib import Path
from time import monotonic, time
from typing import Annotated, Any, Self, TypeVar

import httpx
import jwt
from label_studio_sdk import LabelStudio, MlBackend, Webhook
from label_studio_sdk.core.api_error import ApiError
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from av2t_core.errors import AV2TError, ConfigError, MediaError
from av2t_core.labelstudio.config import Video
from av2t_core.limits import API_ANSWER, API_SECONDS
from av2t_core.statuses import may_pass
from worker.client.answers import TIMEOUT, detail, is_label_studios, json_of, reason, retry_after
from worker.client.clip_cache import ClipCache
from worker.client.media import Media
from worker.client.transport import Bounds, Network, transport
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
GONE_PAUSE = 2.0  # seconds before Label Studio is asked again whether something is gone
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Task:
    id: int
    project: int
    data: Mapping[str, Any]

    def clip_url(self, video: Video) -> str:
        """Where that tag takes the task's clip from. MediaError: the task does not say."""
        url = self.data.get(video.variable)
        if not isinstance(url, str) or not url:
            raise MediaError(
                f'Task {self.id} has no "{video.variable}", from which Video "{video.name}" takes its clip; import the'
                " clip again or correct the task's data."
            )
        return url


@dataclass(frozen=True, kw_only=True)
class LabelledTask(Task):
    """A task that somebody has submitted or skipped.

    `updated_at` changes with whatever is done to it: an annotation is made, changed, marked as ground truth, skipped or
    deleted, and also its data or its predictions.
    """

    updated_at: datetime
    annotations: int  # without those by which it was skipped
    skipped: int


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
    completed_by: int | None  # a user's id
    parent_prediction: int | None  # the id of the prediction that it began with
    result: Annotated[Sequence[Any], BeforeValidator(lambda told: told or [])]  # its regions, as Label Studio has them


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What a project's list of tasks says of one of them."""

    id: int
    labelled: bool  # it has an annotation
    touched: bool  # or one was begun, or the task was skipped
    model_versions: frozenset[str]  # that it has predictions of


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An ML backend that a project is connected to."""

    url: str
    connected: bool  # Label Studio reached it just now
    error: str  # what Label Studio says if it did not
    hooked: bool  # Label Studio tells it of new tasks and annotations
    authorized: bool  # and says there who it is


@dataclass(frozen=True, kw_only=True)
class ProjectState:
    """A project, as far as pre-annotation goes."""

    title: str
    label_config: str
    model_version: str  # whose predictions annotators are shown; "" for none
    pinned: bool  # to that version; else it is the one that the backend has now
    shows_predictions: bool
    by_uncertainty: bool  # tasks come in the order of their scores, if `pinned`
    backends: tuple[Backend, ...]


class LabelStudioClient:
    """One Label Studio and one key, of `key_kind`. Use as a context manager, or call `close`."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        max_clip_mb: int,
        networks: Sequence[Network] = (),
        cache: ClipCache | None = None,
    ) -> None:
        """`networks`: from which clips may come beside Label Studio and the public internet."""
        self._url = url.rstrip("/")
        self.key_kind = _key_kind(api_key)
        # No redirects: `fetch` follows those of media by itself, and the API has none.
        self._http = httpx.Client(
            timeout=TIMEOUT,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            transport=transport(self._url, Bounds(seconds=API_SECONDS, size=API_ANSWER)),
        )
        self._sdk = LabelStudio(base_url=self._url, api_key=api_key, httpx_client=self._http, timeout=TIMEOUT.read)
        self._media = Media(
            self._url, self._media_key, self._key_refused, max_clip_mb=max_clip_mb, networks=networks, cache=cache
        )

    @classmethod
    def of(cls, settings: Settings, cache: ClipCache | None = None) -> Self:
        """As the settings say. ConfigError: they have no key, or one that cannot be used."""
        return cls(
            settings.label_studio_url,
            settings.require_api_key(),
            max_clip_mb=settings.max_clip_mb,
            networks=settings.clip_networks,
            cache=cache,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def check(self) -> str:
        """The e-mail address of the key's owner: Label Studio is there and takes the key."""
        with self._errors("the account"):
            return self._ask("/api/current-user/whoami", _ACCOUNT).email

    def version(self) -> str:
        """Label Studio's own."""
        with self._errors("its version"):
            return str(self._sdk.versions.get().release)

    def project(self, project: int) -> ProjectState:
        """Takes a while, for Label Studio asks each backend how it is."""
        with self._errors(f"project {project}"):
            found = self._sdk.projects.get(id=project)
            backends = [self._sdk.ml.get(id=int(each.id or 0)) for each in self._sdk.ml.list(project=project)]
            hooks = {hook.url: hook for hook in self._sdk.webhooks.list(project=str(project)) if hook.is_active}
        chosen = str(found.model_version or "")
        # Label Studio keeps a backend's title there for "what that backend has now".
        current = next((str(each.model_version or "") for each in backends if each.title == chosen), None)
        return ProjectState(
            title=str(found.title),
            label_config=str(found.label_config or ""),
            model_version=chosen if current is None else current,
            pinned=current is None and bool(chosen),
            shows_predictions=bool(found.show_collab_predictions),
            by_uncertainty=found.sampling == "Uncertainty sampling",
            backends=tuple(_backend(each, hooks.get(f"{each.url.rstrip('/')}/webhook")) for each in backends),
        )

    def is_connected(self, project: int) -> bool:
        """Whether the project has an ML backend. GoneError where there is no such project any more."""

        def ask() -> bool:
            with self._errors(f"project {project}", gone=True):
                self._ask(f"/api/projects/{project}/", _PROJECT)
                return bool(self._sdk.ml.list(project=project))

        return _surely(ask)

    def label_config(self, project: int) -> str:
        with self._errors(f"project {project}"):
            return self._ask(f"/api/projects/{project}/", _PROJECT).label_config or ""

    def task(self, task: int) -> Task:
        """Raises GoneError where there is none any more."""

        def ask() -> Task:
            with self._errors(f"task {task}", gone=True):
                return self._ask(f"/api/tasks/{task}/", _TASK, UNRESOLVED)

        return _surely(ask)

    def tasks(self, project: int) -> Iterator[TaskState]:
        """The project's tasks in the order of their ids, page by page."""
        # Only these fields: the predictions themselves are hundreds of kilobytes for each clip.
        wanted = "id,total_annotations,cancelled_annotations,draft_exists,predictions_model_versions"
        for found in self._listed(project, wanted):
            yield TaskState(
                id=found["id"],
                labelled=bool(found["total_annotations"]),
                touched=bool(found["total_annotations"] or found["cancelled_annotations"] or found["draft_exists"]),
                model_versions=model_versions(found["predictions_model_versions"]),
            )

    def labelled_tasks(self, project: int) -> Iterator[LabelledTask]:
        """The project's tasks that have an annotation or were skipped, in the order of their ids, page by page."""
        wanted = "id,data,updated_at,total_annotations,cancelled_annotations"
        some, none = _condition("total_annotations", "greater", 0), _condition("total_annotations", "equal", 0)
        skipped = _condition("cancelled_annotations", "greater", 0)
        # Two lists, for among conditions Label Studio has no "or" beside the "and" that pages need.
        both = self._listed(project, wanted, some), self._listed(project, wanted, none, skipped)
        for found in merge(*both, key=lambda task: int(task["id"])):
            yield LabelledTask(
                id=found["id"],
                project=project,
                data=found["data"],
                updated_at=datetime.fromisoformat(found["updated_at"]),
                annotations=found["total_annotations"],
                skipped=found["cancelled_annotations"],
            )

    def _listed(self, project: int, fields: str, *conditions: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """These fields of the project's tasks that fulfil the conditions, in the order of their ids.

        Whichever the fields, Label Studio reads all annotations and predictions of a page's tasks: where a task has
        9 MB of them, that takes it half a second and 70 MB for each. A page begins after the last one's ids, not at an
        offset, so that no task is passed over when another one goes meanwhile.
        """
        size, last = FIRST_PAGE, 0
        while True:
            heartbeat.beat()
            filters = {"conjunction": "and", "items": [_condition("id", "greater", last), *conditions]}
            query = json.dumps({"filters": filters, "ordering": ["id"]})
            asked = {"project": project, "fields": "all", "include": fields, "page_size": size, "query": query}
            began = monotonic()
            with self._errors(f"the tasks of project {project}"):
                try:
                    page = self._ask("/api/tasks", _PAGE, asked | UNRESOLVED)
                except httpx.ReadTimeout:
                    if size == 1:
                        raise
                    size = max(size // 4, 1)
                    continue
            took = monotonic() - began
            yield from page.tasks
            if page.total <= len(page.tasks):
                return
            last = page.tasks[-1]["id"]
            if took < QUICK:
                size = min(2 * size, LARGEST_PAGE)
            elif took > SLOW:
                size = max(size // 2, 1)

    def annotations(self, task: int) -> list[Annotation]:
        """What was submitted for the task, the oldest first; not drafts, nor that it was skipped. GoneError."""

        def ask() -> list[Annotation]:
            with self._errors(f"the annotations of task {task}", gone=True):
                # Not by the SDK, which would have every number of the masks looked at.
                return self._ask(f"/api/tasks/{task}/annotations/", _ANNOTATIONS)

        return _surely(ask)

    def _ask(
        self, path: str, shape: TypeAdapter[Answer], params: Mapping[str, Any] | None = None, **options: Any
    ) -> Answer:
        """GET it; `options` are those of json.loads."""
        headers = {"Authorization": self._authorization()}
        response = self._http.get(self._url + path, params=params, headers=headers)
        self._check_answer(response, 200)
        return shape.validate_python(response.json(**options))

    def set_task_data(self, task: int, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Set what `change` returns for the task's present data, and leave the rest of it as it is."""
        data = self.task(task).data  # read again, for a job runs for minutes and people work meanwhile
        changed = {**data, **change(data)}
        if changed != data:

            def update() -> None:
                with self._errors(f"task {task}", gone=True):
                    self._sdk.tasks.update(id=str(task), data=changed)

            _surely(update)

    def prediction(self, task: int, model_version: str) -> int | None:
        """The id of the one prediction of this model version that the task has afterwards; None: it has none.

        Label Studio takes any number of them. Where another worker was given the same task after a long silence of this
        one, both come here, and both keep the oldest.
        """
        with self._errors(f"the predictions of task {task}"):
            # Label Studio sends their regions along: thousands of masks, which are hundreds of megabytes as objects.
            found = self._ask("/api/predictions/", _PREDICTIONS, {"task": task}, object_hook=_without_regions)
        ids = sorted(each.id for each in found if each.model_version == model_version)
        for other in ids[1:]:
            with suppress(GoneError), self._errors(f"prediction {other}", gone=True):
                self._sdk.predictions.delete(id=other)
        return ids[0] if ids else None

    def create_prediction(self, task: int, model_version: str, score: float, result: Sequence[str]) -> int:
        """The id of the one prediction of this model version that the task has afterwards.

        `result`: its regions, as JSON lists without their brackets.
        """
        head = json.dumps({"task": task, "model_version": model_version, "score": score})[:-1]
        regions = [part for each in result for part in (",", each)][1:]
        body = [f'{head}, "result": [', *regions, "]}"]
        try:
            # Not by the SDK, which would have all of it as objects.
            self._send("/api/predictions/", f"the prediction of task {task}", body)
        except AV2TError:
            self.task(task)  # for a task that is gone Label Studio answers 400, as for a mistake of ours
            raise
        kept = self.prediction(task, model_version)
        if kept is None:
            raise TransientError(f"Label Studio took the prediction of task {task} and does not list it.")
        return kept

    def _send(self, path: str, what: str, body: Sequence[str]) -> None:
        """POST the parts of a JSON document in ASCII, one after the other. What is answered, all of it once more, goes
        unseen."""
        headers = {
            "Authorization": self._authorization(),
            "Content-Type": "application/json",
            "Content-Length": str(sum(map(len, body))),
        }
        parts = (part.encode("ascii") for part in body)
        with (
            self._errors(what),
            self._http.stream("POST", self._url + path, content=parts, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.CREATED:
                response.read()
            self._check_answer(response)
            for _ in response.iter_raw():
                pass

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
            raise TransientError(
                f"Label Studio took frame {error} of project {project} and does not list it."
            ) from None

    def fetch(self, url: str, task: int, target: Path) -> None:
        """See `Media.fetch`."""
        self._media.fetch(url, task, target)

    def probe(self, url: str, task: int) -> None:
        """See `Media.probe`."""
        self._media.probe(url, task)

    def _media_key(self) -> str:
        with self._errors("the key"):
            return self._authorization()

    def _authorization(self) -> str:
        # The SDK's own: it exchanges a personal access token when the last exchange has run out (300 s).
        return str(self._sdk._client_wrapper.get_headers()["Authorization"])

    def _import(self, project: int, frames: Sequence[Path]) -> list[int]:
        # Of several files in one field Label Studio keeps the last: each gets its own.
        files = {frame.name: (frame.name, frame.read_bytes(), "image/jpeg") for frame in frames}
        with self._errors(f"the frames of project {project}"):
            response = self._http.post(
                f"{self._url}/api/projects/{project}/import?commit_to_project=false",
                files=files,
                headers={"Authorization": self._authorization()},
            )
            self._check_answer(response)
            return _IMPORTED.validate_python(response.json()).file_upload_ids

    def _uploaded(self, project: int, ids: Sequence[int] | None) -> dict[str, str]:
        """Name → URL of these uploads of the project, or of all of them; of equal names the oldest."""
        with self._errors(f"the uploads of project {project}"):
            wanted = {"all": "true"} if ids is None else {"ids": json.dumps(ids)}
            found = self._ask(f"/api/projects/{project}/file-uploads", _UPLOADS, wanted)
        # Label Studio stores "name" as "upload/<project>/<8 hex digits>-name".
        newest_first = sorted(found, key=lambda upload: -upload.id)
        files = [upload.file for upload in newest_first]
        return {file.rpartition("/")[2].partition("-")[2]: f"/data/{file}" for file in files}

    def _check_answer(self, response: httpx.Response, wanted: int = 201) -> None:
        """ApiError, as the SDK would raise it, for another status than the one that is wanted."""
        if response.status_code != wanted:
            raise ApiError(status_code=response.status_code, headers=dict(response.headers), body=json_of(response))

    @contextmanager
    def _errors(self, what: str, *, gone: bool = False) -> Iterator[None]:
        """Failures of the API about `what`, in this module's three kinds; `gone`: by a 404 Label Studio says that it
        is."""
        try:
            yield
        except ApiError as error:
            raise self._failure(error, what, gone) from None
        except httpx.TransportError as error:
            raise TransientError(f"Label Studio at {self._url} cannot be reached ({reason(error)}).") from None
        except (json.JSONDecodeError, ValidationError):
            raise self._no_json(what) from None

    def _failure(self, error: ApiError, what: str, gone: bool) -> Exception:
        status, headers = error.status_code or 0, error.headers or {}
        if 200 <= status < 300:  # the SDK, of an answer that is no JSON
            return self._no_json(what)
        if may_pass(status):
            return TransientError(f"Label Studio at {self._url} answers {status} for {what}.", retry_after(headers))
        if not is_label_studios(status, error.body):
            return TransientError(
                f"Label Studio at {self._url} answers {status} for {what}, and not in its own words: a proxy before it,"
                " or LABEL_STUDIO_URL is another server's."
            )
        if status == 401:
            return self._key_refused(detail(error.body))
        if status == 404 and gone:
            return GoneError(what)
        if status == 403:
            return AV2TError(
                f"The account of LABEL_STUDIO_API_KEY has no access to {what}; make it a member of the project."
            )
        return AV2TError(f"Label Studio at {self._url} refuses {what} ({status}: {detail(error.body)}).")

    def _no_json(self, what: str) -> TransientError:
        return TransientError(
            f"Label Studio at {self._url} answers no JSON of its own for {what}; is it another server?"
        )

    def _key_refused(self, detail: str) -> AV2TError:
        return AV2TError(
            f"Label Studio at {self._url} refuses the {self.key_kind} in LABEL_STUDIO_API_KEY ({detail}); "
            "create a new one on its page Account & Settings."
        )


@dataclass(frozen=True)
class _Account:
    email: str


@dataclass(frozen=True)
class _Project:
    label_config: str | None


@dataclass(frozen=True)
class _Page:
    total: int
    tasks: list[dict[str, Any]]


@dataclass(frozen=True)
class _Prediction:
    id: int
    model_version: str | None


@dataclass(frozen=True)
class _Upload:
    id: int
    file: str


@dataclass(frozen=True)
class _Imported:
    file_upload_ids: list[int]


# What Label Studio answers, as far as it is used.
_ACCOUNT, _PROJECT = TypeAdapter(_Account), TypeAdapter(_Project)
_TASK, _PAGE = TypeAdapter(Task), TypeAdapter(_Page)
_ANNOTATIONS, _PREDICTIONS = TypeAdapter(list[Annotation]), TypeAdapter(list[_Prediction])
_UPLOADS, _IMPORTED = TypeAdapter(list[_Upload]), TypeAdapter(_Imported)


def _surely(ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns. GoneError: that something is gone was said twice, with a pause between."""
    try:
        return ask()
    except GoneError:
        heartbeat.pause(GONE_PAUSE)
        return ask()


def model_versions(listed: str | None) -> frozenset[str]:
    """From a list of tasks, where they stand separated by commas, and on PostgreSQL by spaces, too."""
    return frozenset(filter(None, map(str.strip, (listed or "").split(","))))


def _without_regions(found: dict[str, Any]) -> dict[str, Any] | None:
    """Of a JSON object in a list of predictions: None unless it is one of them."""
    return found if "model_version" in found else None


def _condition(field: str, operator: str, value: int) -> dict[str, object]:
    """Of tasks, as Label Studio's data manager writes it."""
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": "Number", "value": value}


def _backend(found: MlBackend, hook: Webhook | None) -> Backend:
    headers = (hook.headers or {}) if hook else {}
    return Backend(
        url=found.url,
        connected=str(found.state) == "CO",
        error=str(found.error_message or ""),
        hooked=hook is not None,
        authorized=any(name.lower() == "authorization" for name in headers),
    )


def _key_kind(api_key: str) -> str:
    """Which of the two kinds the key is; ConfigError where it can be neither."""
    try:
        claims = jwt.decode(api_key, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return "legacy token"
    if claims.get("token_type") != "refresh":
        raise ConfigError(
            "LABEL_STUDIO_API_KEY is an access token, which lives five minutes; "
            "use the personal access token from Label Studio's page Account & Settings."
        )
    if claims.get("exp", 0) < time():
        raise ConfigError(
            "The personal access token in LABEL_STUDIO_API_KEY has expired; "
            "create a new one on Label Studio's page Account & Settings."
        )
    return "personal access token"
