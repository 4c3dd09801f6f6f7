"""`av2t doctor` where all is well, and where something is not: real Label Studio, real Redis, real backend."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from av2t.__main__ import main
from av2t.stack.process import Process
from tests.backend.conftest import running
from tests.conftest import EMBEDDED, ROOT, LabelStudioServer, wait_until
from tests.core.clips import at_rate, write_clip
from tests.worker.conftest import client_of
from worker.client.projects import connect_backend, find_or_make, recommended_config
from worker.queue.connection import connect
from worker.queue.views import overview


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A project, its backend and the environment of a worker."""

    server: LabelStudioServer
    project: int
    environment: dict[str, str]

    def examine(self, **changed: str) -> dict[str, list[tuple[str, str]]]:
        """{what was looked at: (state, sentence) of each finding}; in this process, which has torch already."""
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
            for name, value in {**self.environment, **changed}.items():
                patch.setenv(name, value)
            status = main(["doctor", "--project", str(self.project), "--json"])
        found: dict[str, list[tuple[str, str]]] = {}
        for finding in json.loads(out.getvalue()):
            found.setdefault(finding["what"], []).append((finding["state"], finding["sentence"]))
        assert status == any(state == "fail" for some in found.values() for state, _ in some)
        return found

    def failures(self, **changed: str) -> list[str]:
        return [sentence for some in self.examine(**changed).values() for state, sentence in some if state == "fail"]


@pytest.fixture
def setting(label_studio: LabelStudioServer, redis_url: str, tmp_path: Path) -> Iterator[Setting]:
    """All is well; the worker is the one with the stand-in model."""
    environment = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_key,
        "REDIS_URL": redis_url,
        "AV2T_DATA_DIR": str(tmp_path / "data"),
        "AV2T_DEVICE": "cpu",
    }
    worker = Process(
        "worker", [sys.executable, "-m", "tests.worker.stub", redis_url], log=tmp_path / "log", environment={}
    )
    client = client_of(label_studio.url, label_studio.api_key)
    try:
        with running(redis_url, tmp_path / "backend.log") as backend, client:
            project = find_or_make(client.api, f"doctor {tmp_path.name}", recommended_config(["dog"]))
            connect_backend(client.api, project, backend.url)
            label_studio.upload(project, write_clip(tmp_path / "clip.mp4", at_rate(4, 1)))
            wait_until(lambda: overview(connect(redis_url)).workers)
            environment["AV2T_BACKEND_PORT"] = backend.url.rpartition(":")[2]
            yield Setting(server=label_studio, project=project, environment=environment)
    finally:
        worker.stop()


def test_where_all_is_well(setting: Setting) -> None:
    found = setting.examine()
    assert setting.failures() == []
    sentences = {what: " ".join(sentence for _, sentence in some) for what, some in found.items()}
    assert "torch" in sentences["packages"]
    assert "workers that listen: 1" in sentences["Redis"]
    assert f"{EMBEDDED}, of the preset tiny; its weights are whole" in sentences["model"]
    assert f"offers {EMBEDDED}" in sentences["backend"]
    assert f"the legacy token of {setting.server.email}" in sentences["Label Studio"]
    of_project = sentences[f"project {setting.project}"]
    assert 'BrushLabels "mask"' in of_project
    assert "tells it of new tasks" in of_project
    assert "can be fetched" in of_project


def test_what_a_person_can_have_set_wrong_in_the_project(setting: Setting) -> None:
    path = f"/api/projects/{setting.project}/"
    [task] = [each.id for each in setting.server.sdk.tasks.list(project=setting.project)]
    for model_version in ("another", EMBEDDED):  # Label Studio lets nobody choose what there is not
        setting.server.sdk.predictions.create(task=task, result=[], score=0.5, model_version=model_version)
    setting.server.request("PATCH", path, json={"model_version": "another", "show_collab_predictions": False})
    [version, shown] = setting.failures()
    assert "the predictions of another" in version
    assert f"or {EMBEDDED}, in the project's Settings > Predictions" in version
    assert "does not show predictions" in shown

    setting.server.request("PATCH", path, json={"model_version": EMBEDDED, "show_collab_predictions": True})
    setting.server.request("PATCH", path, json={"sampling": "Uncertainty sampling"})
    assert "to which it is pinned" in str(setting.examine())
    assert "random order" not in str(setting.examine())
    setting.server.request("PATCH", path, json={"model_version": "AV2T-SAM"})  # the backend, whatever it has
    assert (
        f"random order, for no model version is chosen in its Settings > Predictions: choose {EMBEDDED} there"
        in str(setting.examine())
    )
    [hook] = setting.server.sdk.webhooks.list(project=str(setting.project))
    setting.server.request("PATCH", f"/api/webhooks/{hook.id}/", json={"is_active": False})
    [unhooked] = setting.failures()
    assert "does not tell the backend" in unhooked


def test_what_the_worker_s_environment_can_have_wrong(setting: Setting) -> None:
    [refused] = setting.failures(LABEL_STUDIO_API_KEY="wrong-token")
    assert "refuses the legacy token" in refused
    assert "wrong-token" not in refused
    [no_gpu] = setting.failures(AV2T_DEVICE="cuda:7")
    assert "set it to auto" in no_gpu


def test_nothing_is_there(tmp_path: Path) -> None:
    environment = {
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "any",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "AV2T_MODEL": "no-such-model",
        "AV2T_DATA_DIR": str(tmp_path),
        "AV2T_BACKEND_PORT": "9",
    }
    result = subprocess.run(
        [sys.executable, "-m", "av2t", "doctor"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("FAIL")] == [
        "FAIL  Redis",
        "FAIL  model",
        "FAIL  device",
        "FAIL  Label Studio",
    ]
    assert lines[-1] == "4 of 6 failed"
    assert "Traceback" not in result.stdout + result.stderr
