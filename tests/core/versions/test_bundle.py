"""Model versions as files: what goes out comes in the same, and nothing else comes in."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from av2t_core.errors import Remedy, WeightsError
from av2t_core.files import file_hash
from av2t_core.versions.bundle import export_version, import_version
from av2t_core.versions.checkpoint import load_version
from av2t_core.versions.saving import save_part, save_version
from av2t_core.versions.version import Version, find, resolve, resolve_start
from tests.conftest import EMBEDDED, wait_until

CPU = torch.device("cpu")
NAME = f"{EMBEDDED}-p3-1"
BIAS = "model.projector.audio_proj.bias"

Members = dict[str, bytes]


def tune(
    models_dir: Path, name: str = NAME, parent: str = EMBEDDED, tensors: dict[str, torch.Tensor] | None = None
) -> Version:
    card = {
        "preset": "tiny",
        "labels": resolve("tiny").card.labels,
        "parent": parent,
        "onto_parent": True,
        "project": 3,
    }
    save_version(models_dir / name, card, tensors or {BIAS: torch.full((256,), 7.0)})
    return resolve(name, models_dir)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def bundle(here: Path, tmp_path: Path) -> Path:
    """Of a version that loads onto the embedded one."""
    export_version(tune(here), tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def members_of(bundle: Path) -> Members:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(bundle: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(bundle, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return bundle


def summed(members: Members) -> Members:
    """With the hashes that fit."""
    sums = [f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in members.items() if name != "SHA256SUMS"]
    return {**members, "SHA256SUMS": "".join(sums).encode()}


def with_weights(members: Members, weights: bytes) -> Members:
    """With these, and a card and hashes that fit."""
    card = json.loads(members[f"{NAME}/card.json"]) | {"sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps(card).encode()
    return summed({**members, f"{NAME}/card.json": text, f"{NAME}/weights.safetensors": weights})


def test_what_goes_out_comes_in(bundle: Path, here: Path, there: Path) -> None:
    assert list(members_of(bundle)) == ["SHA256SUMS", f"{NAME}/card.json", f"{NAME}/weights.safetensors"]
    version, new = import_version(bundle, there)
    assert (version, new) == (resolve(NAME, there), True)
    for file in ("card.json", "weights.safetensors"):
        assert (there / NAME / file).read_bytes() == (here / NAME / file).read_bytes()
    assert load_version(version, CPU).model.projector.audio_proj.bias.tolist() == [7.0] * 256
    assert sorted(path.name for path in there.iterdir()) == [".lock", "parts", NAME]
    assert import_version(bundle, there) == (version, False)


def test_two_exports_are_the_same_and_stand_without_this_program(bundle: Path, here: Path, tmp_path: Path) -> None:
    export_version(resolve(NAME, here), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "unpacked", check=True)
    resolve(NAME, tmp_path / "unpacked").verify()


def test_what_a_version_shares_with_others_goes_along_and_is_kept_once(here: Path, there: Path, tmp_path: Path) -> None:
    ones, twos = (save_part(here, "frozen", {"model.x": torch.full((3,), value)}) for value in (1.0, 2.0))
    for name, parts in (("mine-1", [ones]), ("mine-2", [ones, twos])):
        save_version(here / name, {"preset": "tiny", "labels": [], "parts": parts}, {"model.y": torch.ones(2)})
        export_version(resolve(name, here), tmp_path / f"{name}.zip")
    assert sorted(members_of(tmp_path / "mine-2.zip")) == [
        "SHA256SUMS",
        "mine-2/card.json",
        "mine-2/weights.safetensors",
        *sorted([f"parts/{ones.file}", f"parts/{twos.file}"]),
    ]
    import_version(tmp_path / "mine-1.zip", there)
    before = (there / "parts" / ones.file).stat()
    import_version(tmp_path / "mine-2.zip", there)
    resolve("mine-2", there).verify()
    assert (there / "parts" / ones.file).stat().st_ino == before.st_ino


def test_what_a_training_repeats_goes_along(here: Path, there: Path, tmp_path: Path) -> None:
    save_file({"frame": torch.ones(3)}, tmp_path / "replay.safetensors")
    card = {"preset": "tiny", "labels": [], "replay_sha256": file_hash(tmp_path / "replay.safetensors")}
    save_version(here / "mine-1", card, {"model.y": torch.ones(2)})
    with pytest.raises(WeightsError, match=r"mine-1/replay\.safetensors, of model version mine-1, is missing"):
        export_version(resolve("mine-1", here), tmp_path / "mine-1.zip")
    shutil.copy(tmp_path / "replay.safetensors", here / "mine-1")
    export_version(resolve("mine-1", here), tmp_path / "mine-1.zip")
    version, _ = import_version(tmp_path / "mine-1.zip", there)
    assert [(path, file_hash(path)) for path, _ in version.stored_files] == version.stored_files
    assert sorted(path.name for path in version.directory.iterdir()) == [
        ".imported",
        "card.json",
        "replay.safetensors",
        "weights.safetensors",
    ]


def test_a_part_that_is_there_and_damaged_is_not_replaced(here: Path, there: Path, tmp_path: Path) -> None:
    part = save_part(here, "frozen", {"model.x": torch.ones(3)})
    save_version(here / "mine-1", {"preset": "tiny", "labels": [], "parts": [part]}, {"model.y": torch.ones(2)})
    export_version(resolve("mine-1", here), tmp_path / "mine-1.zip")
    (there / "parts").mkdir(parents=True)
    (there / "parts" / part.file).write_bytes(b"another")
    with pytest.raises(WeightsError, match=f"{part.file} is damaged, or another part of the same name"):
        import_version(tmp_path / "mine-1.zip", there)
    assert find("mine-1", there) is None


def test_a_parent_goes_first(here: Path, there: Path, tmp_path: Path) -> None:
    tune(here)
    export_version(resolve(NAME, here), tmp_path / "1.zip")
    export_version(tune(here, f"{EMBEDDED}-p3-2", NAME), tmp_path / "2.zip")
    with pytest.raises(WeightsError, match=f"loads onto {NAME}, which is not in") as caught:
        import_version(tmp_path / "2.zip", there)
    assert caught.value.remedy is Remedy.EXPORT
    tune(there, tensors={BIAS: torch.zeros(256)})
    with pytest.raises(WeightsError, match=f"loads onto another {NAME} than the one in"):
        import_version(tmp_path / "2.zip", there)
    shutil.rmtree(there)
    for file in ("1.zip", "2.zip"):
        import_version(tmp_path / file, there)
    load_version(resolve(f"{EMBEDDED}-p3-2", there), CPU)


def test_nothing_is_replaced(bundle: Path, here: Path, there: Path) -> None:
    other = tune(there, tensors={BIAS: torch.zeros(256)})
    with pytest.raises(WeightsError, match=f"there is another model version {NAME} already"):
        import_version(bundle, there)
    other.verify()
    with pytest.raises(WeightsError, match=r"bundle\.zip exists"):
        export_version(resolve(NAME, here), bundle)


def test_what_is_no_bundle_of_its_own_is_not_exported(here: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    with pytest.raises(WeightsError, match="ships with the package"):
        export_version(resolve("tiny"), target)
    version = tune(here)
    with pytest.raises(WeightsError, match="cannot be written"):
        export_version(version, tmp_path / "nowhere" / "out.zip")
    version.weights.write_bytes(version.weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="is damaged: its sha256 is not the one on the card"):
        export_version(version, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


# What somebody may have done to a bundle


def changed(text: Members, name: str, **card: object) -> Members:
    """With another card, and hashes that fit."""
    fields = json.loads(text[f"{NAME}/card.json"]) | card
    return summed({**text, f"{name}/card.json": json.dumps(fields).encode()})


def renamed(members: Members, name: str) -> Members:
    return summed({path.replace(NAME, name): text for path, text in members.items()})


SHA256 = hashlib.sha256(b"x").hexdigest()
CHANGES: dict[str, Callable[[Members], Members]] = {
    "another file": lambda members: {**members, "evil.py": b"x"},
    "another file with its hash": lambda members: summed({**members, f"{NAME}/evil.py": b"x"}),
    "a path to elsewhere": lambda members: summed({**members, "../evil": b"x"}),
    "another card": lambda members: summed({**members, "mine-1/card.json": members[f"{NAME}/card.json"]}),
    "no hashes": lambda members: {name: text for name, text in members.items() if name != "SHA256SUMS"},
    "no weights": lambda members: {name: text for name, text in members.items() if "weights" not in name},
    "no card": lambda members: summed({name: text for name, text in members.items() if "card" not in name}),
    "a card of another hash": lambda members: {**members, f"{NAME}/card.json": members[f"{NAME}/card.json"] + b" "},
    "a card that is a list": lambda members: summed({**members, f"{NAME}/card.json": b"[]"}),
    "a card that is deep": lambda members: summed({**members, f"{NAME}/card.json": b"[" * 10**6}),
    "a card that is large": lambda members: summed({**members, f"{NAME}/card.json": b" " * (32 * 10**6 + 1)}),
    "a card without labels": lambda members: changed(members, NAME, labels=None),
    "a part that lacks": lambda members: changed(members, NAME, parts=[{"file": "x-1.safetensors", "sha256": SHA256}]),
    "a part from elsewhere": lambda members: summed(
        {
            **changed(members, NAME, parts=[{"file": f"../../x-{SHA256[:8]}.safetensors", "sha256": SHA256}]),
            f"parts/../../x-{SHA256[:8]}.safetensors": b"x",
        }
    ),
    "a name that is a path": lambda members: renamed(members, "../evil"),
    "a name that is an absolute path": lambda members: renamed(members, "/tmp/evil"),
    "a name of a folder": lambda members: renamed(members, "parts"),
    "weights that are no tensors": lambda members: with_weights(members, b"cos\nsystem\n(S'true'\ntR."),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_that_somebody_has_changed_is_refused(bundle: Path, there: Path, tmp_path: Path, change: str) -> None:
    rewritten(bundle, CHANGES[change](members_of(bundle)))
    with pytest.raises(WeightsError):
        import_version(bundle, there)
    assert_nothing_came_in(there)
    assert sorted(path.name for path in tmp_path.iterdir() if path != there) == ["bundle.zip", "here"]


def test_weights_of_another_hash_are_damaged(bundle: Path, there: Path) -> None:
    members = members_of(bundle)
    weights = members[f"{NAME}/weights.safetensors"]
    rewritten(bundle, {**members, f"{NAME}/weights.safetensors": weights[:-1] + b"\x01"})
    with pytest.raises(WeightsError, match=rf"{NAME}/weights\.safetensors in .* is damaged: export it again"):
        import_version(bundle, there)
    assert_nothing_came_in(there)


def test_what_is_compressed_is_refused(bundle: Path, there: Path) -> None:
    """It could unpack to anything."""
    rewritten(bundle, members_of(bundle), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="is no exported model version, or somebody has changed it"):
        import_version(bundle, there)


@pytest.mark.parametrize("size", [0, 100, -100])
def test_a_file_that_is_cut_off_is_refused(bundle: Path, there: Path, size: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:size])
    with pytest.raises(WeightsError, match="is damaged, or no exported model version"):
        import_version(bundle, there)
    assert_nothing_came_in(there)


def test_a_file_that_is_not_there(tmp_path: Path, there: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.zip cannot be read \(No such file or directory\)"):
        import_version(tmp_path / "none.zip", there)


@pytest.mark.parametrize("tensors", [{BIAS: torch.zeros(255)}, {"model.projector.evil": torch.zeros(1)}])
def test_tensors_that_the_parent_does_not_have_are_refused(
    here: Path, there: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    export_version(tune(here, tensors=tensors), tmp_path / "bundle.zip")
    with pytest.raises(WeightsError, match=rf"the weights do not fit the {EMBEDDED} that {NAME} loads onto"):
        import_version(tmp_path / "bundle.zip", there)
    assert_nothing_came_in(there)


def test_a_preset_of_another_release_is_named(bundle: Path, there: Path) -> None:
    rewritten(bundle, changed(members_of(bundle), NAME, preset="sam9"))
    with pytest.raises(WeightsError, match="'sam9', which this release does not know: install a newer one"):
        import_version(bundle, there)


def assert_nothing_came_in(models_dir: Path) -> None:
    """But for the lock and the empty folder of parts."""
    assert {path.relative_to(models_dir).as_posix() for path in models_dir.rglob("*")} <= {".lock", "parts"}


IMPORT = """
import resource, sys
from pathlib import Path
from av2t_core.versions.bundle import import_version
from av2t_core.errors import WeightsError
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    import_version(Path(sys.argv[1]), Path(sys.argv[2]))
except WeightsError as error:
    print(error)
assert "torch" not in sys.modules
"""


def importing(bundle: Path, models_dir: Path, *limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IMPORT, str(bundle), str(models_dir), *map(str, limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def large(here: Path, tmp_path: Path) -> Path:
    """The bundle of a version that takes a moment to copy."""
    save_version(here / "mine-1", {"preset": "tiny", "labels": []}, {"model.x": torch.zeros(2**25)})
    export_version(resolve("mine-1", here), tmp_path / "large.zip")
    return tmp_path / "large.zip"


def test_a_kill_in_the_middle_leaves_no_version_and_no_obstacle(large: Path, there: Path) -> None:
    with importing(large, there) as process:
        wait_until(lambda: list(there.glob(".mine-1.part/weights.safetensors")))
        os.kill(process.pid, signal.SIGKILL)
    assert find("mine-1", there) is None
    import_version(large, there)
    resolve("mine-1", there).verify()
    assert sorted(path.name for path in there.iterdir()) == [".lock", "mine-1", "parts"]


def test_a_disk_that_is_full_is_told(large: Path, there: Path) -> None:
    with importing(large, there, 10**6) as process:
        out, _ = process.communicate(timeout=60)
    assert "is full (File too large): make room" in out
    assert_nothing_came_in(there)


def test_what_was_imported_is_not_what_a_preset_means(here: Path, there: Path, tmp_path: Path) -> None:
    """Whatever it says of itself: a person has to name it."""
    whole = resolve(EMBEDDED)
    shutil.copytree(whole.directory, here / "theirs-1")
    export_version(resolve("theirs-1", here), tmp_path / "whole.zip")
    version, _ = import_version(tmp_path / "whole.zip", there)
    assert version.card.preset == "tiny"
    assert version.card.parent is None
    assert resolve("tiny", there).name == EMBEDDED
    assert resolve("theirs-1", there).directory == there / "theirs-1"
    assert resolve("tiny", here).name == "theirs-1"  # made here


def test_an_imported_version_of_a_preset_that_is_not_here_is_named(here: Path, there: Path, tmp_path: Path) -> None:
    card = {**resolve(EMBEDDED).card.as_json(), "preset": "sam2-l"}
    shutil.copytree(resolve(EMBEDDED).directory, here / "theirs-1")
    (here / "theirs-1/card.json").write_text(json.dumps(card))
    export_version(resolve("theirs-1", here), tmp_path / "whole.zip")
    import_version(tmp_path / "whole.zip", there)
    with pytest.raises(WeightsError, match="sam2-l is only here as what was imported: name theirs-1"):
        resolve("sam2-l", there)


def test_no_training_starts_from_what_was_imported_unless_it_is_named(here: Path, there: Path, tmp_path: Path) -> None:
    card = {**resolve(EMBEDDED).card.as_json(), "preset": "sam2-l", "start": True}
    shutil.copytree(resolve(EMBEDDED).directory, here / "sam2-l-start")
    (here / "sam2-l-start/card.json").write_text(json.dumps(card))
    export_version(resolve("sam2-l-start", here), tmp_path / "start.zip")
    import_version(tmp_path / "start.zip", there)
    with pytest.raises(WeightsError, match="sam2-l-start is only here as what was imported: name it"):
        resolve_start("sam2-l", None, there)
    assert resolve_start("sam2-l", "sam2-l-start", there).directory == there / "sam2-l-start"
    assert resolve_start("sam2-l", None, here).name == "sam2-l-start"


@pytest.mark.parametrize("name", ["tiny", "tiny-99", "sam2-l"])
def test_a_bundle_cannot_take_the_name_of_what_ships(here: Path, there: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(resolve(EMBEDDED).directory, here / name)
    export_version(resolve(name, here), tmp_path / "whole.zip")
    with pytest.raises(WeightsError, match=f"is called {name}, as what this package brings itself"):
        import_version(tmp_path / "whole.zip", there)
    assert resolve("tiny", there).name == EMBEDDED
