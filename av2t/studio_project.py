"""One project of a Label Studio: the few calls of its API by which the demo fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from xml.sax.saxutils import quoteattr

import httpx

from av2t_core.errors import AV2TError


def label_config(labels: Sequence[str]) -> str:
    """The recommended label config: the clip with its sound, and its keyframes with a brush for each label."""
    brushes = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    return f"""<View>
  <Video name="video" value="$video" framerate="$fps" sync="audio" height="260"/>
  <Audio name="audio" value="$video" sync="video" height="60"/>
  <BrushLabels name="mask" toName="frames">{brushes}</BrushLabels>
  <Image name="frames" valueList="$frames" zoom="true" zoomControl="true"/>
</View>"""


@dataclass(frozen=True, kw_only=True)
class StudioProject:
    """`client` knows Label Studio's address and carries the key. Every method raises AV2TError for a refusal."""

    client: httpx.Client
    id: int

    @classmethod
    def named(cls, client: httpx.Client, title: str, labels: Sequence[str]) -> Self:
        """The project of this title; made with a brush for each of `labels` if there is none."""
        found = _call(client, "GET", "/api/projects/", params={"title": title, "include": "id,title"})["results"]
        # Label Studio finds titles that contain the one asked for.
        ids = [each["id"] for each in found if each["title"] == title]
        if ids:
            return cls(client=client, id=min(ids))
        made = _call(client, "POST", "/api/projects/", json={"title": title, "label_config": label_config(labels)})
        return cls(client=client, id=made["id"])

    def connect(self, backend_url: str) -> str:
        """Connect the backend at `backend_url`, in place of any other; returns the model version that it serves."""
        connected = None
        for backend in self._call("GET", "/api/ml", params={"project": self.id}):
            if backend["url"] == backend_url and connected is None:
                connected = backend
            else:
                self._disconnect(backend)
        if connected is None:
            body = {"project": self.id, "url": backend_url, "title": "AV2T-SAM"}
            connected = self._call("GET", f"/api/ml/{self._call('POST', '/api/ml', json=body)['id']}")
        if connected["state"] != "CO":
            raise AV2TError(f"Label Studio cannot use the backend {backend_url}: {connected['error_message']}")
        return str(connected["model_version"])

    def upload(self, clip: Path) -> None:
        """Import the file as the import page does: it becomes a task."""
        with clip.open("rb") as file:
            self._call("POST", f"/api/projects/{self.id}/import", files={clip.name: (clip.name, file)})

    def clips(self) -> dict[int, str]:
        """{task: the name of the file that it was made from}."""
        # Label Studio puts eight characters and a dash before the name.
        return {each["id"]: each["file_upload"].partition("-")[2] for each in self._tasks() if each["file_upload"]}

    def predicted(self, model_version: str) -> set[int]:
        """The tasks that have a prediction of `model_version`."""
        # On PostgreSQL there are spaces after the commas.
        listed = {each["id"]: each["predictions_model_versions"].split(",") for each in self._tasks()}
        return {task for task, versions in listed.items() if model_version in map(str.strip, versions)}

    def ask_for_predictions(self, tasks: Sequence[int]) -> None:
        """What "Retrieve Predictions" in the data manager does."""
        selected = {"selectedItems": {"all": False, "included": list(tasks)}}
        query = {"project": self.id, "id": "retrieve_tasks_predictions"}
        self._call("POST", "/api/dm/actions", params=query, json=selected)

    def _tasks(self) -> list[dict[str, Any]]:
        # Only these fields: the predictions themselves are hundreds of kilobytes for each clip.
        wanted = {"fields": "all", "include": "id,file_upload,predictions_model_versions"}
        found = self._call("GET", "/api/tasks", params={"project": self.id, "page_size": 1000, **wanted})
        tasks: list[dict[str, Any]] = found["tasks"]
        return tasks

    def _disconnect(self, backend: dict[str, Any]) -> None:
        self._call("DELETE", f"/api/ml/{backend['id']}")
        # Label Studio made it with the connection and leaves it behind.
        for webhook in self._call("GET", "/api/webhooks/", params={"project": self.id}):
            if webhook["url"] == f"{backend['url']}/webhook":
                self._call("DELETE", f"/api/webhooks/{webhook['id']}/")

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        return _call(self.client, method, path, **kwargs)


def _call(client: httpx.Client, method: str, path: str, **kwargs: Any) -> Any:
    """The decoded answer. AV2TError if there is none or it is a refusal."""
    where = f"Label Studio at {client.base_url}"
    try:
        response = client.request(method, path, **kwargs)
    except httpx.HTTPError as error:
        raise AV2TError(f"{where} did not answer {method} {path} ({error or type(error).__name__})") from None
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise AV2TError(
            f"{where} does not accept the key that it was started with; allow legacy tokens in its organization's "
            "settings, or start with an empty folder with --data-dir"
        )
    if response.is_error:
        raise AV2TError(f"{where} refused {method} {path} with {response.status_code}: {response.text[:500]}")
    return response.json() if response.content else None
