"""What uv.lock must and must not hold.

label-studio-ml pins versions with published vulnerabilities, and pyproject.toml overrides them: the tests see to it
that no later change of the lock brings them back. A scan against a database of vulnerabilities is `uv audit`, which
needs the network.
"""

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]

with (ROOT / "uv.lock").open("rb") as file:
    LOCKED = {package["name"]: package for package in tomllib.load(file)["package"]}
with (ROOT / "pyproject.toml").open("rb") as file:
    OVERRIDES = list(map(Requirement, tomllib.load(file)["tool"]["uv"]["override-dependencies"]))


@pytest.mark.parametrize(
    ("name", "fixed"),
    # The first version without a published vulnerability of those that label-studio-ml's pins have.
    [("flask", "3.1.1"), ("werkzeug", "3.1.4"), ("jinja2", "3.1.6"), ("itsdangerous", "2.2.0")],
)
def test_stale_pins_are_overridden(name: str, fixed: str) -> None:
    assert Version(LOCKED[name]["version"]) >= Version(fixed)


def test_attr_is_not_there() -> None:
    """It takes the import name of attrs, which half of the other packages need."""
    assert "attr" not in LOCKED
    assert "attrs" in LOCKED


@pytest.mark.parametrize("override", [each for each in OVERRIDES if each.marker is None], ids=str)
def test_overrides_are_in_force(override: Requirement) -> None:
    assert override.specifier.contains(LOCKED[override.name]["version"])


def test_every_package_is_hashed() -> None:
    for name, package in LOCKED.items():
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files or "editable" in package["source"], name
        assert all(file.get("hash", "").startswith("sha256:") for file in files), name


def test_backend_needs_no_torch() -> None:
    """What `uv sync --locked --no-dev` installs, which is the backend's image."""
    options = ["--frozen", "--no-dev", "--no-hashes", "--no-emit-project", "--no-header", "--quiet"]
    command = [find_uv_bin(), "export", *options]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {Requirement(line).name for line in lines if not line.startswith((" ", "#"))}
    assert {"flask", "label-studio-ml", "redis", "rq", "waitress"} <= names
    assert {name for name in names if name.startswith("nvidia")} == set()
    assert {"torch", "torchvision", "transformers", "sam2", "open-clip-torch", "laion-clap", "av"} & names == set()
