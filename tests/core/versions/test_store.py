"""The model store, in a folder and on a real server of S3's protocol: what one machine pushes, another has."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
import torch

from av2t.remedies import told
from av2t_core.errors import StoreAwayError, WeightsError
from av2t_core.versions import pointers
from av2t_core.versions.bundle import export_version, import_version
from av2t_core.versions.checkpoint import load_version
from av2t_core.versions.mirror import Mirror
from av2t_core.versions.names import STORE_MARK
from av2t_core.versions.saving import save_part, save_version
from av2t_core.versions.store import FETCHING, Store, fetch
from av2t_core.versions.version import Version, find, resolve
from tests import s3
from tests.conftest import EMBEDDED, wait_until
from tests.core.versions.test_bundle import CPU, NAME, tune
from tests.ports import free_port


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3.serving(tmp_path_factory.mktemp("s3") / "s3.log") as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty one of its own for each test."""
    if request.param == "folder":
        return Store(f"file://{tmp_path / 'store'}")
    url = request.getfixturevalue("s3_server")
    bucket = f"models-{token_hex(4)}"
    s3.make_bucket(url, bucket)
    s3.use(url, monkeypatch)
    return Store(f"s3://{bucket}/of/us")


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'store'}")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


def with_part(models_dir: Path, name: str, value: float = 1.0) -> Version:
    part = save_part(models_dir, "frozen", {"model.x": torch.full((3,), value)})
    card = {"preset": "tiny", "labels": [], "parts": [part]}
    save_version(models_dir / name, card, {"model.y": torch.ones(2)})
    return resolve(name, models_dir)


def moved(store: Store, models_dir: Path, url: str) -> Store:
    """The store at another address, where nothing need be, and the version NAME as it would be marked if it were."""
    path = models_dir / NAME / STORE_MARK
    path.write_text(path.read_text().replace(store.url, url))
    return Store(url)


def refresh(models_dir: Path, store: Store) -> None:
    Mirror(models_dir, store).refresh()


def test_what_one_machine_pushes_another_has(store: Store, here: Path, there: Path) -> None:
    first = tune(here)
    second = tune(here, f"{EMBEDDED}-p3-2", NAME, {"model.projector.vision_proj.bias": torch.full((256,), 2.0)})
    store.push(second)
    assert sorted(store.listing()) == [
        f"{version.name}/{file}" for version in (first, second) for file in ("card.json", "weights.safetensors")
    ]

    refresh(there, store)
    version = resolve(second.name, there)
    assert (version.card, [each.name for each in version.chain]) == (second.card, [second.name, NAME, EMBEDDED])
    assert not version.weights.exists()
    version.check()
    loaded = load_version(version, CPU)
    assert loaded.model.projector.audio_proj.bias.tolist() == [7.0] * 256
    assert loaded.model.projector.vision_proj.bias.tolist() == [2.0] * 256
    for name in (first.name, second.name):
        for file in ("card.json", "weights.safetensors"):
            assert (there / name / file).read_bytes() == (here / name / file).read_bytes()
    assert sorted(path.name for path in there.iterdir()) == [FETCHING, "projects", first.name, second.name]
    assert [path.name for path in (there / FETCHING).iterdir()] == ["lock"]


def test_parts_are_there_once_and_of_the_newest_version_all_machines_think_the_same(
    store: Store, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [with_part(here, name) for name in ("mine-b", "mine-a")]
    os.utime(here / "mine-b" / "card.json", (9e9, 9e9))
    for version in versions:
        store.push(version)
    assert sum(member.startswith("parts/") for member in store.listing()) == 1
    refresh(there, store)
    times = [[(root / name / "card.json").stat().st_mtime for name in ("mine-a", "mine-b")] for root in (here, there)]
    assert times[0] == times[1]
    fetch(resolve("mine-a", there))
    fetch(resolve("mine-b", there))
    resolve("mine-b", there).verify()


def test_a_refresh_reads_new_cards_alone(
    store: Store, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.push(tune(here))
    pointers.promote(here, 3, NAME, store)
    read: list[str] = []
    real = Store.read

    def told(self: Store, member: str) -> bytes | None:
        read.append(member)
        return real(self, member)

    monkeypatch.setattr(Store, "read", told)
    mirror = Mirror(there, store)
    mirror.refresh()
    assert read == [f"{NAME}/card.json", "projects/3.json"]
    mirror.refresh()
    Mirror(here, store).refresh()
    assert read[2:] == ["projects/3.json"]  # of the machine that has not read it yet


def test_what_was_pushed_half_is_not_there_and_the_next_push_completes_it(
    store: Store, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = with_part(here, "mine-1")

    class Killed(BaseException):
        pass

    write = Store.write

    def until_the_card(self: Store, member: str, *rest: object) -> None:
        if member.endswith("card.json"):
            raise Killed
        write(self, member, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", until_the_card)
        with pytest.raises(Killed):
            store.push(version)
    assert len(store.listing()) == 2
    refresh(there, store)
    assert find("mine-1", there) is None
    store.write_text("mine-1/weights.safetensors", b"what another one left")

    store.push(version)
    refresh(there, store)
    fetch(resolve("mine-1", there))
    resolve("mine-1", there).verify()


def test_pushing_twice_changes_nothing(store: Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tune(here)
    store.push(version)
    before = store.listing()
    monkeypatch.setattr(Store, "write", lambda *_: pytest.fail("it was written again"))
    store.push(version)
    assert store.listing() == before


def test_another_version_of_the_same_name_is_refused(store: Store, here: Path, there: Path) -> None:
    store.push(tune(here))
    with pytest.raises(WeightsError, match=rf"has another model version {NAME} than .*/there/{NAME}"):
        store.push(tune(there, tensors={"model.projector.audio_proj.bias": torch.zeros(256)}))


def test_a_version_that_never_got_there_makes_way_and_is_kept(
    folder: Store, here: Path, there: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a push fails, and the training is done again by another machine."""
    folder.push(tune(here))
    own = tune(there, tensors={"model.projector.audio_proj.bias": torch.zeros(256)})
    refresh(there, folder)
    aside = f"{NAME}.here-{own.card.sha256[:8]}"
    assert resolve(NAME, there).card == resolve(NAME, here).card
    assert resolve(aside, there).card == own.card
    assert aside in caplog.text


def test_what_was_made_again_under_a_name_replaces_what_came_before(folder: Store, here: Path, there: Path) -> None:
    folder.push(tune(here))
    refresh(there, folder)
    fetch(resolve(NAME, there))
    pointers.delete(here, NAME, folder)
    folder.push(tune(here, tensors={"model.projector.audio_proj.bias": torch.zeros(256)}))
    refresh(there, folder)
    loaded = load_version(resolve(NAME, there), CPU)
    assert loaded.model.projector.audio_proj.bias.tolist() == [0.0] * 256
    assert not list(there.glob("*.here-*"))


def test_what_is_damaged_there_is_said_with_what_helps(store: Store, here: Path, there: Path) -> None:
    version = tune(here)
    store.push(version)
    refresh(there, store)
    store.write_text(f"{NAME}/weights.safetensors", bytes(version.weights.stat().st_size))
    with pytest.raises(WeightsError, match="damaged in the model store") as caught:
        load_version(resolve(NAME, there), CPU)
    assert not isinstance(caught.value, StoreAwayError)
    assert f"`av2t models push {NAME}`" in told(caught.value)
    assert not resolve(NAME, there).weights.exists()

    store.remove([f"{NAME}/weights.safetensors"])
    with pytest.raises(StoreAwayError, match=rf"has no {NAME}/weights\.safetensors"):
        fetch(resolve(NAME, there))
    store.push(version)
    fetch(resolve(NAME, there))
    resolve(NAME, there).verify()


def test_what_is_deleted_is_deleted_everywhere_with_parts_that_nothing_needs(
    store: Store, here: Path, there: Path
) -> None:
    for name, value in (("mine-1", 1.0), ("mine-2", 1.0), ("mine-3", 3.0)):
        store.push(with_part(here, name, value))
    refresh(there, store)
    for name in ("mine-1", "mine-3"):
        fetch(resolve(name, there))
        pointers.delete(here, name, store)
    [part] = resolve("mine-2", here).card.parts
    assert sorted(store.listing()) == ["mine-2/card.json", "mine-2/weights.safetensors", f"parts/{part.file}"]
    refresh(there, store)
    assert [path.parent.name for path in there.glob("*/card.json")] == ["mine-2"]
    assert [path.name for path in (there / "parts").iterdir()] == [part.file]


def test_an_empty_store_takes_nothing_away(folder: Store, here: Path, tmp_path: Path) -> None:
    """It is one that is not mounted."""
    folder.push(tune(here))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    refresh(here, folder)
    assert find(NAME, here)


def test_a_version_that_is_pushed_meanwhile_is_not_taken_for_deleted(
    folder: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.push(tune(here))
    listed = folder.listing()
    second = tune(here, f"{EMBEDDED}-p3-2")
    folder.push(second)
    monkeypatch.setattr(Store, "listing", lambda _: listed)
    refresh(here, folder)
    assert find(second.name, here)


def test_the_stores_pointer_is_the_one_that_counts(store: Store, here: Path, there: Path) -> None:
    store.push(tune(here))
    pointers.promote(here, 3, NAME, store)
    refresh(there, store)
    assert pointers.current(there, 3) == NAME
    assert pointers.rollback(there, 3, store) == EMBEDDED
    pointers.promote(here, 3, NAME, store)  # whose own pointer still says so
    assert pointers.read(here, 3) == pointers.Pointer(current=NAME, history=(EMBEDDED,))
    refresh(there, store)
    assert pointers.read(there, 3) == pointers.read(here, 3)


def test_only_what_is_in_the_store_can_be_promoted(folder: Store, here: Path) -> None:
    tune(here)
    with pytest.raises(WeightsError, match="is not in the model store") as caught:
        pointers.promote(here, 3, NAME, folder)
    assert told(caught.value).endswith(f": `av2t models push {NAME}` first")
    assert pointers.current(here, 3) is None
    pointers.promote(here, 3, EMBEDDED, folder)


def test_without_the_store_nothing_is_changed_and_what_is_here_works(
    folder: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.push(tune(here))
    away = moved(folder, here, f"ftp://127.0.0.1:{free_port()}/models")
    mirror = Mirror(here, away)
    for change in (
        mirror.refresh,
        lambda: pointers.promote(here, 3, NAME, away),
        lambda: pointers.delete(here, NAME, away),
        lambda: away.push(resolve(NAME, here)),
    ):
        with pytest.raises(StoreAwayError, match=r"^the model store ftp://127\.0\.0\.1:\d+/models cannot be reached"):
            change()
    assert mirror.away_since
    assert mirror.error
    assert pointers.current(here, 3) is None
    load_version(resolve(NAME, here), CPU)


def test_an_s3_that_is_away_and_no_secret_is_in_what_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("s3fs", reason="needs s3fs: `uv sync --extra s3`")
    s3.use(f"http://127.0.0.1:{free_port()}", monkeypatch)
    with pytest.raises(StoreAwayError, match=r"^the model store s3://none/models cannot be reached") as caught:
        Store("s3://none/models").listing()
    assert s3.CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value) + caplog.text


def test_a_bucket_that_is_not_there_passes_by_no_waiting(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.use(s3_server, monkeypatch)
    with pytest.raises(WeightsError, match="the model store s3://nobodys is not there") as caught:
        Store("s3://nobodys").check()
    assert not isinstance(caught.value, StoreAwayError)


@pytest.mark.parametrize(
    ("url", "said"),
    [("nothing://models", "Protocol not known"), ("lakefs://models", "Please install lakefs")],
    ids=["none", "package"],
)
def test_a_protocol_without_its_package_is_named(url: str, said: str) -> None:
    with pytest.raises(WeightsError, match=rf"^the model store {url} cannot be opened: .*{said}") as caught:
        Store(url).listing()
    assert told(caught.value).endswith("; AV2T_MODELS_URL names it")
    assert not isinstance(caught.value, StoreAwayError)


def test_a_folder_that_may_not_be_read_is_no_outage(folder: Store, here: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(WeightsError, match="the model store"):
        folder.push(tune(here))


CARD = json.dumps({"preset": "tiny", "labels": [], "sha256": "0" * 64})
SHADY_PART = {"file": "../../x-00000000.safetensors", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("parts/card.json", CARD),
        ("Mine/card.json", CARD),
        ("mine/card.json", "no card"),
        ("mine/card.json", json.dumps({**json.loads(CARD), "parts": [SHADY_PART]})),
        (f"{EMBEDDED}/card.json", CARD),
        ("mine/deep/card.json", CARD),
        ("projects/3.json", '{"current": "../x", "history": []}'),
        ("projects/03.json", '{"current": "tiny", "history": []}'),
        ("notes.txt", "of somebody"),
    ],
)
def test_what_has_not_the_form_of_a_stores_own_is_left_out_and_said_once(
    folder: Store, here: Path, there: Path, member: str, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.push(tune(here))
    folder.write_text(member, content.encode())
    mirror = Mirror(there, folder)
    mirror.refresh()
    mirror.refresh()
    assert sorted(path.name for path in there.iterdir()) == ["projects", NAME]
    assert [path.name for path in (there / "projects").iterdir()] == [".lock"]
    assert len(caplog.records) == 1


def test_a_card_that_is_too_large_is_not_read(
    folder: Store, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.push(tune(here))
    folder.write_text("mine/card.json", b" " * 2001)
    for module in ("mirror", "store"):
        monkeypatch.setattr(f"av2t_core.versions.{module}.LARGEST_CARD", 2000)
    refresh(there, folder)
    assert [path.parent.name for path in there.glob("*/card.json")] == [NAME]
    assert "'mine/card.json'" in caplog.text
    with pytest.raises(WeightsError, match="too large"):
        folder.read("mine/card.json")


def test_one_that_was_damaged_here_is_fetched_again(folder: Store, here: Path, there: Path) -> None:
    folder.push(tune(here))
    refresh(there, folder)
    version = resolve(NAME, there)
    version.weights.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="delete it, and it is fetched from the model store again"):
        load_version(version, CPU)
    version.weights.unlink()
    load_version(version, CPU)


def test_another_store_has_what_is_pushed_to_it(folder: Store, here: Path, tmp_path: Path) -> None:
    version = tune(here)
    folder.push(version)
    other = Store(f"file://{tmp_path / 'other'}")
    other.push(with_part(here, "mine-1"))
    refresh(here, other)
    assert find(NAME, here)
    with pytest.raises(WeightsError, match="is not in the model store"):
        pointers.promote(here, 3, NAME, other)
    other.push(version)
    pointers.promote(here, 3, NAME, other)


FETCH = """
import sys
from pathlib import Path
from av2t_core.versions.store import Store, fetch
from av2t_core.versions.version import resolve
blocks = Store.blocks
def told(self, member, bar):
    print("fetching", flush=True)
    sys.stdin.readline()
    yield from blocks(self, member, bar)
Store.blocks = told
print("ready", flush=True)
fetch(resolve(sys.argv[1], Path(sys.argv[2])))
print("done", flush=True)
"""


def test_two_processes_fetch_once(folder: Store, here: Path, there: Path) -> None:
    folder.push(tune(here))
    refresh(there, folder)
    command = [sys.executable, "-c", FETCH, NAME, str(there)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        assert one.stdout.readline() == other.stdout.readline() == "ready\n"
        wait_until(lambda: any(path.name != "lock" for path in (there / FETCHING).glob("*")))
        for process in (one, other):  # the one that waits has to be told, too, if it should not wait
            process.stdin.write("go\n")
            process.stdin.flush()
        # Not by `communicate`, which passes over what came together with the first line.
        said = [process.stdout.read() for process in (one, other)]
    assert sorted(said) == ["done\n", "fetching\ndone\n"]
    resolve(NAME, there).verify()


def test_a_fetch_that_was_killed_leaves_nothing_that_counts(folder: Store, here: Path, there: Path) -> None:
    folder.push(tune(here))
    refresh(there, folder)
    command = [sys.executable, "-c", FETCH, NAME, str(there)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "fetching\n"]
        process.send_signal(signal.SIGKILL)
    assert not resolve(NAME, there).weights.exists()
    fetch(resolve(NAME, there))
    assert [path.name for path in (there / FETCHING).iterdir()] == ["lock"]


def test_what_is_only_in_the_store_can_be_exported_and_imported_onto(
    folder: Store, here: Path, there: Path, tmp_path: Path
) -> None:
    first, second = tune(here), tune(here, f"{EMBEDDED}-p3-2", NAME)
    export_version(second, tmp_path / "second.zip")
    folder.push(first)
    refresh(there, folder)
    export_version(resolve(NAME, there), tmp_path / "first.zip")
    (there / NAME / "weights.safetensors").unlink()
    import_version(tmp_path / "second.zip", there)
    resolve(second.name, there).verify()


def test_without_room_nothing_is_fetched(
    folder: Store, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.push(tune(here))
    refresh(there, folder)
    usage = shutil.disk_usage(there)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(WeightsError, match="make room"):
        fetch(resolve(NAME, there))
    assert not resolve(NAME, there).weights.exists()
