"""The backend with a model store: what other machines have made is offered, beside all that is answered meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from av2t_core.versions import pointers
from av2t_core.versions.store import FETCHING, Store
from av2t_core.versions.version import resolve
from tests import s3
from tests.backend.conftest import CONFIG, running
from tests.backend.test_process import MAX_RSS
from tests.conftest import EMBEDDED, SHIPPED, wait_until
from tests.core.versions.test_bundle import NAME, tune
from tests.ports import free_port


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3.serving(tmp_path_factory.mktemp("s3") / "s3.log") as url:
        yield url


@pytest.fixture
def store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    s3.use(s3_server, monkeypatch)
    s3.make_bucket(s3_server, "models")
    return Store("s3://models/of/us")


def test_what_is_only_in_the_store_is_offered_and_not_fetched(store: Store, redis_url: str, tmp_path: Path) -> None:
    """In the memory that is promised, into which torch would not go."""
    there, here = tmp_path / "there" / "models", tmp_path / "here" / "models"
    environment = {"AV2T_MODELS_URL": store.url, "AV2T_MODELS_REFRESH": "1", "AV2T_DATA_DIR": str(there.parent)}
    with running(redis_url, tmp_path / "backend.log", **environment) as backend:
        backend.set_up(3)
        assert backend.http.get("/versions").json() == {"versions": SHIPPED[::-1]}

        store.push(tune(here))
        pointers.promote(here, 3, NAME, store)

        def offered() -> str:
            return str(backend.post("/setup", project="3.17", schema=CONFIG).json()["model_version"])

        wait_until(lambda: offered() == NAME)
        assert backend.http.get("/versions").json() == {"versions": [EMBEDDED, NAME, SHIPPED[0]]}
        assert not resolve(NAME, there).weights.exists()
        assert not (there / FETCHING).exists()
        assert psutil.Process(backend.process.pid).memory_info().rss < MAX_RSS
        data = {"id": f"3/{EMBEDDED}"}
        assert backend.http.post("/use", data=data, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
        assert offered() == EMBEDDED
        pointers.take(here, 3, store)
        assert pointers.current(here, 3) == EMBEDDED
        assert backend.http.get("/status.json").json()["store"] == {
            "url": store.url,
            "away_since": None,
            "error": None,
        }
        log = backend.process.log.read_text()
    assert s3.CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in log


def test_a_store_that_is_away_is_told_and_holds_nothing_up(redis_url: str, tmp_path: Path) -> None:
    url = f"ftp://127.0.0.1:{free_port()}/models"
    environment = {"AV2T_MODELS_URL": url, "AV2T_MODELS_REFRESH": "1", "AV2T_DATA_DIR": str(tmp_path)}
    with running(redis_url, tmp_path / "backend.log", **environment) as backend:
        backend.set_up(3)
        first = wait_until(lambda: backend.http.get("/status.json").json()["store"]["away_since"])
        page = backend.http.get("/").text
        assert first[:19].replace("T", " ") in page
        assert f"the model store {url} cannot be reached" in page
        tries = backend.process.log.read_text().count("cannot be reached")
    assert tries == 2  # once as it starts, and once for all later tries
