"""What the backend may import of the worker: it starts quickly and small, and knows neither jobs nor Label Studio."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "backend").glob("*.py")), ids=lambda path: path.name)
def test_of_the_worker_the_queue_and_the_settings_alone(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    of_worker = {name for name in imported if name.split(".")[0] == "worker"}
    assert {name for name in of_worker if not name.startswith(("worker.queue.", "worker.settings."))} == set()
