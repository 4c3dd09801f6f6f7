"""What is built for others: which files are in it, and what it says that they are under."""

import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from email.parser import BytesParser
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.conftest import ROOT, SHIPPED

CLIPS = {"dog.mp4", "drumkit.mp4", "elephant-rooster-kettle.mp4", "violin-owl.mp4"}
EXPRESSION = "Apache-2.0 AND GPL-2.0-or-later"
LICENCES = ["LICENSE", "av2t/demo_clips/COPYING", "av2t/demo_clips/CREDITS.md", "av2t_core/weights/CREDITS.md"]

Content = Mapping[str, bytes]


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What is in it, by its place in the package."""
    folder = tmp_path_factory.mktemp("dist")
    command = [
        find_uv_bin(),
        "build",
        f"--{request.param}",
        "--offline",
        "--quiet",
        "--out-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    [file] = folder.glob("av2t_sam-*")
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
        for file in ("card.json", "replay.safetensors", "weights.safetensors")
    }
    assert others == {f"av2t/demo_clips/{clip}" for clip in CLIPS} | weights
