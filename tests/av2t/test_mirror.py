"""The commands with a model store: two machines, which are two folders, on one store in a third."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from av2t.__main__ import main
from av2t_core.versions import pointers
from av2t_core.versions.store import Store
from av2t_core.versions.version import find, resolve
from tests.conftest import COMPOSED_CLIPS, EMBEDDED, SHIPPED
from tests.core.versions.test_bundle import NAME, tune
from tests.core.versions.test_store import moved
from tests.ports import free_port

Run = Callable[..., tuple[int, str, str]]

PACKAGED = dict.fromkeys(SHIPPED, "package")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.setenv("AV2T_MODELS_URL", f"file://{tmp_path / 'store'}")
    return Store(f"file://{tmp_path / 'store'}")


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command on a machine, in this process: its status, and what it wrote."""

    def run(machine: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / machine))
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here" / "models"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there" / "models"


def places(on: Run, machine: str) -> dict[str, str]:
    """By `av2t models list`: where each version is."""
    _, out, _ = on(machine, "models", "list")
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()[2:]]
    return {row[0]: row[1] for row in rows}


def test_a_version_s_way_from_machine_to_machine(on: Run, store: Store, here: Path, there: Path) -> None:
    tune(here)
    assert places(on, "here") == {NAME: "here", **PACKAGED}
    assert places(on, "there") == PACKAGED
    assert on("here", "models", "promote", NAME, "--project", 3)[2] == (
        f"av2t: error: {NAME} is not in the model store {store.url}: `av2t models push {NAME}` first\n"
    )

    assert on("here", "models", "push", NAME) == (0, "", f"av2t: {NAME} is in the model store {store.url}\n")
    assert places(on, "here") == {NAME: "here and store", **PACKAGED}
    assert places(on, "there") == {NAME: "store", **PACKAGED}
    [listed, *_] = json.loads(on("there", "weights", "list", "--json")[1])["versions"]
    assert (listed["name"], listed["bytes"], listed["lacks"]) == (NAME, None, [])
    assert on("there", "models", "promote", NAME, "--project", 3)[0] == 0
    on("here", "models", "list")
    assert pointers.current(here, 3) == NAME

    assert "current model version of project 3" in on("here", "models", "delete", NAME)[2]
    assert on("here", "models", "rollback", "--project", 3)[0] == 0
    assert on("here", "models", "delete", NAME)[0] == 0
    assert places(on, "there") == PACKAGED


def test_what_is_run_is_fetched(on: Run, store: Store, here: Path, there: Path, tmp_path: Path) -> None:
    store.push(tune(here))
    clip = COMPOSED_CLIPS / "dog.mp4"
    status, out, err = on("there", "predict", clip, "--out", tmp_path / "result", "--model", NAME, "--no-overlay")
    assert (status, "keyframes" in out) == (0, True), err
    assert resolve(NAME, there).weights.read_bytes() == resolve(NAME, here).weights.read_bytes()


def test_what_is_imported_gets_there(on: Run, store: Store, here: Path, tmp_path: Path) -> None:
    tune(here)
    assert on("here", "models", "export", NAME, tmp_path / "bundle.zip")[0] == 0
    status, out, err = on("there", "models", "import", tmp_path / "bundle.zip")
    assert (status, err) == (0, f"av2t: {NAME} is in the model store {store.url}\n")
    assert f"{NAME} is in " in out
    assert f"{NAME}/card.json" in store.listing()


def test_a_store_that_is_away(on: Run, here: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.push(tune(here))
    url = moved(store, here, f"ftp://127.0.0.1:{free_port()}/models").url
    monkeypatch.setenv("AV2T_MODELS_URL", url)
    status, out, err = on("here", "models", "show", NAME)
    assert (status, out.splitlines()[0]) == (0, NAME)
    assert err.startswith(f"av2t: note: the model store {url} cannot be reached")
    assert err.count("\n") == 1
    for change in (("promote", NAME, "--project", 3), ("delete", NAME), ("push", NAME)):
        status, out, err = on("here", "models", *change)
        assert (status, out) == (2, "")
        assert f"the model store {url} cannot be reached" in err.splitlines()[-1]
    assert find(NAME, here)
    assert pointers.current(here, 3) is None


def test_what_cannot_be_pushed(on: Run, store: Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{EMBEDDED} ships with the package" in on("here", "models", "push", "tiny")[2]
    assert store.listing() == {}
    monkeypatch.delenv("AV2T_MODELS_URL")
    assert "AV2T_MODELS_URL is not set" in on("here", "models", "push", "tiny")[2]


def test_the_doctor_tries_it(on: Run, store: Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*, of: str) -> list[tuple[str, str]]:
        findings = json.loads(on("there", "doctor", "--json")[1])
        return [(each["state"], each["sentence"]) for each in findings if each["what"] == of]

    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("AV2T_BACKEND_PORT", "9")
    store.push(tune(here))
    before = store.listing()
    assert found(of="model store") == [("ok", f"{store.url} answers, and can be written.")]
    assert store.listing() == before
    monkeypatch.setenv("AV2T_MODEL", NAME)
    [(state, sentence)] = found(of="model")
    assert (state, sentence) == ("ok", f"{NAME}, of the preset tiny; its weights come from the store when wanted.")
    monkeypatch.setenv("AV2T_MODELS_URL", f"ftp://127.0.0.1:{free_port()}/models")
    [(state, sentence)] = found(of="model store")
    assert state == "fail"
    assert "see that it runs" in sentence
    monkeypatch.delenv("AV2T_MODELS_URL")
    assert found(of="model store") == []
