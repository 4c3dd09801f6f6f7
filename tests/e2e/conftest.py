"""A demo that runs as `make demo` runs it, and a browser to look at it with."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import ROOT
from tests.up import Up, options, ports, runs

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BY_DEFAULT = {"AV2T_MODEL": ""}  # the model is the one that a person gets
# Pictures of the last run, for whoever wants to see what the tests saw.
SCREENSHOTS = ROOT / ".av2t" / "screenshots"


@dataclass(frozen=True, kw_only=True)
class RunningDemo:
    """`av2t up --demo`, the second time on its data: what it and the first one said, its addresses and its project."""

    data_dir: Path
    arguments: tuple[str, ...]
    url: str
    email: str
    password: str
    api_key: str
    project: int
    first_output: str
    second_output: str

    def get(self, path: str, **params: Any) -> Any:
        response = httpx.get(self.url + path, headers={"Authorization": f"Token {self.api_key}"}, params=params)
        response.raise_for_status()
        return response.json()

    def tasks(self) -> list[dict[str, Any]]:
        found = self.get("/api/tasks", project=self.project, fields="all", page_size=100)
        tasks: list[dict[str, Any]] = found["tasks"]
        return tasks

    def task_with_most_masks(self) -> dict[str, Any]:
        return max(self.tasks(), key=lambda task: len(task["predictions"][0]["result"]))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    data_dir = tmp_path_factory.mktemp("demo") / "data"
    chosen = ports()
    with Up(data_dir, "--demo", "--exit", *options(chosen), environment=BY_DEFAULT) as first:
        assert first.wait() == 0, first.output
    with Up(data_dir, "--demo", *options(chosen), environment=BY_DEFAULT) as second:
        second.wait_for("Ctrl-C stops")
        account = json.loads((data_dir / "label-studio-account.json").read_text())
        yield RunningDemo(
            data_dir=data_dir,
            arguments=tuple(options(chosen)),
            url=f"http://127.0.0.1:{chosen['--label-studio-port']}",
            project=int(second.wait_for(r"demo: project (\d+)")[1]),
            first_output=first.output,
            second_output=second.output,
            **account,
        )
        started = second.processes()
        second.send(signal.SIGINT)
        assert second.wait() == 0, second.output
    assert [process for process in started if runs(process)] == []


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        of_the_system = next(filter(None, map(shutil.which, CHROMIUMS)), None)
        path = of_the_system or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip(
                "no Chromium: bring one with `apt-get install chromium` or `.venv/bin/playwright install chromium`"
            )
        with playwright.chromium.launch(executable_path=path, args=list(FLAGS)) as browser:
            yield browser


@pytest.fixture(scope="session")
def screenshots() -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
