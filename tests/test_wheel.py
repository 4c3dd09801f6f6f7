"""What is built for others: which files are in it, and what it says that they are under."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email.parser import BytesParser
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.conftest import EMBEDDED, ROOT, SHIPPED

CLIPS = {"cat.mp4", "chicken.mp4", "cow.mp4", "dog.mp4"}
EXPRESSION = "Apache-2.0 AND GPL-3.0-only"
LICENCES = ["LICENSE", "av2t/demo_clips/COPYING", "av2t/demo_clips/CREDITS.md", "av2t_core/weights/CREDITS.md"]

Content = Mapping[str, bytes]


def build(what: str, folder: Path) -> Path:
    command = [find_uv_bin(), "build", f"--{what}", "--offline", "--quiet", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    [file] = folder.glob("av2t_sam-*")
    return file


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What is in it, by its place in the package."""
    file = build(request.param, tmp_path_factory.mktemp("dist"))
    if request.param == "wheel":
        with zipfile.ZipFile(file) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(file) as archive:
        members = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive}
        return {name: content.read() for name, content in members.items() if content is not None}


def test_it_says_what_its_parts_are_under(built: Content) -> None:
    [name] = [name for name in built if name.endswith((".dist-info/METADATA", "PKG-INFO"))]
    metadata = BytesParser().parsebytes(built[name])
    assert metadata["License-Expression"] == EXPRESSION
    assert sorted(metadata.get_all("License-File", [])) == LICENCES
    folder = f"{Path(name).parent}/licenses/" if name.endswith("METADATA") else ""
    for licence in LICENCES:
        assert built[f"{folder}{licence}"] == (ROOT / licence).read_bytes()


def test_the_demos_clips_lie_beside_their_licence(built: Content) -> None:
    """They are what `av2t up --demo` shows, also where the package is installed."""
    beside = {Path(name).name for name in built if Path(name).parent == Path("av2t/demo_clips")}
    assert beside - {"", "demo_clips"} == CLIPS | {"labels.txt", "CREDITS.md", "COPYING"}
    assert b"GNU GENERAL PUBLIC LICENSE" in built["av2t/demo_clips/COPYING"]


def test_whatever_is_no_code_is_known(built: Content) -> None:
    """A picture, a recording or weights that come into the package need a line in one of the CREDITS, and one here."""
    code = {".py", ".typed", ".html", ".toml", ".orig", ".txt", ".md", ""}
    others = {name for name in built if Path(name).suffix not in code and ".dist-info/" not in name}
    weights = {
        f"av2t_core/weights/{version}/{file}"
        for version in SHIPPED
        if version != EMBEDDED
        for file in ("card.json", "replay.safetensors", "weights.safetensors")
    }
    assert others == {f"av2t/demo_clips/{clip}" for clip in CLIPS} | weights


def test_where_it_is_installed_the_tests_model_is_told_of(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        wheel.extractall(tmp_path / "site")
    clip = next((ROOT / "av2t/demo_clips").glob("*.mp4"))

    def av2t(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "av2t", *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "AV2T_MODEL": "", **environment}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    predict = ["predict", clip, "--out", tmp_path / "out"]
    for name, told in (
        ("tiny", av2t(*predict, AV2T_MODEL="tiny")),
        (EMBEDDED, av2t(*predict, "--model", EMBEDDED)),
        ("tiny", av2t("models", "show", "tiny")),
    ):
        why = f"the weights of {name} are for tests, and come with the repository alone"
        assert (told.returncode, told.stdout) == (2, "")
        assert told.stderr == f"av2t: error: {why}; the model that ships with the package is small\n"
    listed = av2t("models", "list", "--json")
    assert [each["name"] for each in json.loads(listed.stdout)] == SHIPPED[:1]
