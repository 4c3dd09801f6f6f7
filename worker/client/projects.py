"""Projects of Label Studio: how one is set up, and how it comes to be so. For errors see `api`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from av2t_core.errors import AV2TError
from worker.client.api import Api


@dataclass(frozen=True, kw_only=True)
class Webhook:
    id: int
    url: str
    is_active: bool
    headers: Mapping[str, Any] | None

    @property
    def authorized(self) -> bool:
        """Label Studio says there who it is."""
        return any(name.lower() == "authorization" for name in self.headers or {})


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An ML backend that a project is connected to."""

    id: int
    url: str
    state: str
    title: str | None
    model_version: str | None
    error_message: str | None  # why Label Studio did not reach it
    webhook: Webhook | None = None  # by which Label Studio tells it of new tasks and annotations

    @property
    def connected(self) -> bool:
        return self.state == "CO"  # Label Studio reached it just now


@dataclass(frozen=True, kw_only=True)
class ProjectState:
    """A project, as far as pre-annotation goes."""

    title: str
    label_config: str
    model_version: str  # whose predictions annotators are shown; "" for none
    pinned: bool  # to that version; else it is the one that the backend has now
    shows_predictions: bool
    by_uncertainty: bool  # tasks come in the order of their scores, if `pinned`
    backends: list[Backend]

    @property
    def chosen(self) -> str:
        """The model version that it is pinned to, or ""."""
        return self.model_version if self.pinned else ""


@dataclass(frozen=True)
class _Project:
    id: int
    title: str
    label_config: str | None = None
    model_version: str | None = None
    show_collab_predictions: bool | None = None
    sampling: str | None = None


def version(api: Api) -> str:
    return api.ask("GET", "/api/version/", "its version", str, field="release")


def project_state(api: Api, project: int) -> ProjectState:
    """Takes a while, for Label Studio asks each backend how it is."""
    found = api.ask("GET", f"/api/projects/{project}/", f"project {project}", _Project)
    hooks = {hook.url: hook for hook in _webhooks(api, project) if hook.is_active}
    backends = [_backend(api, each.id) for each in _backends(api, project)]
    chosen = found.model_version or ""
    # Label Studio keeps a backend's title there for "what that backend has now".
    current = next((each.model_version or "" for each in backends if each.title == chosen), None)
    return ProjectState(
        title=found.title,
        label_config=found.label_config or "",
        model_version=chosen if current is None else current,
        pinned=current is None and bool(chosen),
        shows_predictions=bool(found.show_collab_predictions),
        by_uncertainty=found.sampling == "Uncertainty sampling",
        backends=[replace(each, webhook=hooks.get(_hook(each))) for each in backends],
    )


def find_or_make(api: Api, title: str, label_config: str) -> int:
    """The project of this title; made with this label config if there is none."""
    params = {"title": title, "include": "id,title"}
    found = api.ask("GET", "/api/projects/", "its projects", list[_Project], field="results", params=params)
    # Label Studio finds titles that contain the one asked for.
    if ids := [each.id for each in found if each.title == title]:
        return min(ids)
    body = {"title": title, "label_config": label_config}
    return api.ask("POST", "/api/projects/", f"a project {title!r}", _Project, json=body).id


def recommended_config(labels: Sequence[str]) -> str:
    """The clip with its sound, and its keyframes with a brush for each label."""
    brushes = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    return f"""<View>
  <Video name="video" value="$video" framerate="$fps" sync="audio" height="260"/>
  <Audio name="audio" value="$video" sync="video" height="60"/>
  <BrushLabels name="mask" toName="frames">{brushes}</BrushLabels>
  <Image name="frames" valueList="$frames" zoom="true" zoomControl="true"/>
</View>"""


def connect_backend(api: Api, project: int, url: str) -> str:
    """Connect the backend at `url`, in place of any other; the model version that it has. AV2TError."""
    about, backends = f"the backend {url}", _backends(api, project)
    same = next((each for each in backends if each.url == url), None)
    for other in backends:
        if other is not same:
            api.tell("DELETE", f"/api/ml/{other.id}", about)
            # Label Studio made it with the connection and leaves it behind.
            for webhook in _webhooks(api, project):
                if webhook.url == _hook(other):
                    api.tell("DELETE", f"/api/webhooks/{webhook.id}/", about)
    if same is None:
        api.tell("POST", "/api/ml", about, json={"project": project, "url": url, "title": "AV2T-SAM"})
        [same] = _backends(api, project)
    connected = _backend(api, same.id)
    if not connected.connected:
        raise AV2TError(f"Label Studio cannot use the backend {url}: {connected.error_message}")
    return connected.model_version or ""


def upload_clip(api: Api, project: int, clip: Path) -> None:
    """As the import page does it: it becomes a task."""
    with clip.open("rb") as file:
        files = {clip.name: (clip.name, file)}
        api.tell("POST", f"/api/projects/{project}/import", f"the clip {clip.name}", files=files)


def ask_for_predictions(api: Api, project: int, tasks: Sequence[int]) -> None:
    """What "Retrieve Predictions" in the data manager does."""
    selected = {"selectedItems": {"all": False, "included": list(tasks)}}
    params = {"project": project, "id": "retrieve_tasks_predictions"}
    api.tell("POST", "/api/dm/actions", f"the predictions of project {project}", params=params, json=selected)


def _backends(api: Api, project: int) -> list[Backend]:
    return api.ask("GET", "/api/ml", f"project {project}", list[Backend], params={"project": project})


def _backend(api: Api, id: int) -> Backend:
    return api.ask("GET", f"/api/ml/{id}", f"backend {id}", Backend)


def _webhooks(api: Api, project: int) -> list[Webhook]:
    return api.ask("GET", "/api/webhooks/", f"project {project}", list[Webhook], params={"project": project})


def _hook(backend: Backend) -> str:
    return f"{backend.url.rstrip('/')}/webhook"
