"""The backend's process: what it loads, what it says, how it starts and ends."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from av2t.stack.process import answers
from av2t.stack.redis_server import redis_url as url_of_redis
from av2t.stack.redis_server import start_redis
from av2t_core.versions.version import resolve
from backend.app import create_app
from tests.backend.conftest import CONFIG, Backend, running, start_backend
from tests.conftest import EMBEDDED, wait_until
from tests.ports import free_port
from worker.queue.connection import connect
from worker.settings import Settings

# 150 MB are promised.
MAX_RSS = 150 * 1024 * 1024

# Packages that only the worker needs; each costs tens to hundreds of MB.
HEAVY = {"torch", "torchvision", "transformers", "sam2", "numpy", "pandas", "cv2", "PIL", "av", "label_studio_sdk"}

# As the process itself starts, and then what it holds.
LOADED = """
import sys
from backend.app import create_app
from worker.queue.connection import connect
from worker.settings import Settings
settings = Settings.load()
create_app(settings, connect(settings.redis_url))
print(*sys.modules)
"""


def test_nothing_heavy_is_loaded(redis_url: str) -> None:
    command = [sys.executable, "-c", LOADED]
    loaded = subprocess.run(command, env={"REDIS_URL": redis_url}, capture_output=True, text=True, check=True).stdout
    assert "backend.app" in loaded.split()
    assert {name.partition(".")[0] for name in loaded.split()} & HEAVY == set()


def test_what_stands_in_for_the_frame_s_model_module_is_gone_afterwards() -> None:
    """Neither torch nor the module of label-studio-ml that imports it is loaded or hidden."""
    script = (
        "import sys, backend.frame\n"
        "assert 'label_studio_ml.api' in sys.modules and 'label_studio_ml.model' not in sys.modules\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_two_applications_in_a_process_have_nothing_in_common(redis_url: str, tmp_path: Path) -> None:
    """Each has its Redis, its data folder and its model version."""
    shutil.copytree(resolve(EMBEDDED).directory, tmp_path / "b/models/mine-1")
    clients = {}
    for number, (folder, model) in enumerate((("a", "tiny"), ("b", "mine-1"))):
        settings = Settings(
            redis_url=f"{redis_url.rpartition('/')[0]}/{number}", data_dir=tmp_path / folder, model=model
        )
        clients[folder] = create_app(settings, connect(settings.redis_url)).test_client()
    versions = {"a": EMBEDDED, "b": "mine-1"}
    for project, (folder, client) in enumerate(clients.items(), 3):
        setup = {"project": f"{project}.17", "schema": CONFIG}
        assert client.post("/setup", json=setup).json == {"model_version": versions[folder]}
        asked = {"project": f"{project}.17", "tasks": [{"id": 1}], "label_config": CONFIG}
        assert client.post("/predict", json=asked).json == {"results": [[]], "model_version": versions[folder]}
    for project, (folder, client) in enumerate(clients.items(), 3):
        state = client.get("/status.json").json
        assert state is not None
        assert (state["model_version"], state["queued"]) == (versions[folder], 1)
        assert [row["id"] for row in state["projects"]] == [project]


def test_memory_after_work(backend: Backend) -> None:
    tasks = [{"id": task, "data": {"video": "/data/upload/3/clip.mp4"}} for task in range(1, 1001)]
    backend.post("/predict", project="3.17", tasks=tasks, label_config=CONFIG).raise_for_status()
    assert psutil.Process(backend.process.pid).memory_info().rss < MAX_RSS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(redis_url: str, tmp_path: Path, number: signal.Signals) -> None:
    with running(redis_url, tmp_path / "backend.log") as backend:
        psutil.Process(backend.process.pid).send_signal(number)
        assert backend.process.wait() == 0
        assert "Traceback" not in backend.process.log_tail()
        assert backend.process.log_tail().startswith(f"  The backend listens on {backend.url}")


def test_taken_port_is_one_line_that_names_the_option(redis_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start_backend(redis_url, tmp_path / "backend.log", port)
        assert process.wait() == 2
    [line] = process.log_tail().splitlines()
    assert line.strip().startswith(f"av2t: error: Port {port} of 127.0.0.1 is taken")
    assert "--port" in line


def test_unknown_model_is_one_line(redis_url: str, tmp_path: Path) -> None:
    process = start_backend(redis_url, tmp_path / "backend.log", AV2T_MODEL="no-such-model")
    assert process.wait() == 2
    [line] = process.log_tail().splitlines()
    assert "no-such-model" in line


def test_redis_down_is_said_and_forgiven(tmp_path: Path) -> None:
    """The backend starts without Redis, refuses by name what needs it, and goes on when Redis is there."""
    redis_port, port = free_port(), free_port()
    process = start_backend(url_of_redis(tmp_path / "redis", redis_port), tmp_path / "backend.log", port)
    url = f"http://127.0.0.1:{port}"
    try:
        process.wait_until(lambda: listens(port), timeout=60)
        with httpx.Client(base_url=url, timeout=30) as http:
            body = {"project": "3.17", "tasks": [{"id": 1}], "label_config": CONFIG}
            for answer in (
                http.get("/health"),
                http.get("/status.json"),
                http.post("/setup", json={"project": "3.17", "schema": CONFIG}),
                http.post("/predict", json=body),
                http.post("/webhook", json={"action": "TASKS_DELETED", "tasks": [{"id": 1}]}),
            ):
                assert answer.status_code == 503
                assert answer.json()["error"].startswith(f"Redis at 127.0.0.1:{redis_port}/0 cannot be used")
            redis = start_redis(tmp_path / "redis", redis_port, tmp_path / "redis.log")
            try:
                wait_until(lambda: answers(f"{url}/health"), what="the backend's recovery")
                assert http.post("/predict", json=body).json()["results"] == [[]]
            finally:
                redis.stop()
        assert "Traceback" not in process.log.read_text()
    finally:
        process.stop()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_token_is_in_no_log(redis_url: str, tmp_path: Path) -> None:
    """label_studio_ml.api logs headers and bodies for debugging; not here, even where everything is logged."""
    script = (
        "import logging, sys; logging.basicConfig(level=logging.DEBUG)\n"
        "from backend.app import create_app; from worker.queue.connection import connect\n"
        "from worker.settings import Settings\n"
        "settings = Settings.load()\n"
        "client = create_app(settings, connect(settings.redis_url)).test_client()\n"
        "body = {'project': '3.17', 'schema': sys.argv[1], 'access_token': 'hunter2'}\n"
        "headers = {'Authorization': 'Basic hunter3'}\n"
        "for config in (sys.argv[1], '<View/>'):\n"
        "    client.post('/setup', json=body | {'schema': config}, headers=headers)\n"
        "client.post('/webhook', json={'action': 'PROJECT_CREATED', 'token': 'hunter2'}, headers=headers)\n"
        "logging.getLogger('another').debug('everything is logged')\n"
    )
    command = [sys.executable, "-c", script, CONFIG]
    done = subprocess.run(command, env={"REDIS_URL": redis_url}, capture_output=True, text=True, check=True)
    assert "everything is logged" in done.stderr
    assert "hunter" not in done.stdout + done.stderr
