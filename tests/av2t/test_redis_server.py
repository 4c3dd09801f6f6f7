import os
import signal
import stat
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from av2t.stack.redis_server import redis_url, start_redis
from tests.ports import free_port
from worker.settings import Settings


def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    port = free_port()
    server = start_redis(tmp_path / "data", port, tmp_path / "redis.log")
    with Redis.from_url(redis_url(tmp_path / "data", port)) as client:
        client.set("job", "waiting")
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server = start_redis(tmp_path / "data", port, tmp_path / "redis.log")
        assert client.get("job") == b"waiting"
    server.stop()
    assert server.exit_code == 0


def test_it_listens_on_this_machine_only(tmp_path: Path) -> None:
    port = free_port()
    server = start_redis(tmp_path / "data", port, tmp_path / "redis.log")
    addresses = {each.laddr for each in psutil.Process(server.pid).net_connections() if each.status == "LISTEN"}
    server.stop()
    assert addresses == {("127.0.0.1", port)}


def test_other_users_of_the_machine_are_refused(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "data"
    folder.mkdir(mode=0o755)  # as an earlier release made it
    server = start_redis(folder, port, tmp_path / "redis.log")
    try:
        with Redis(host="127.0.0.1", port=port) as stranger, pytest.raises(AuthenticationError):
            stranger.set("rq:job:1", "x")
        password = redis_url(folder, port).partition("@")[0].rpartition(":")[2]
        assert len(password) >= 32
        assert password not in " ".join(psutil.Process(server.pid).cmdline())
        assert password not in (tmp_path / "redis.log").read_text()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        secret = [file for file in folder.iterdir() if file.is_file() and password in file.read_text(errors="replace")]
        assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}
    finally:
        server.stop()


def test_a_second_terminal_finds_it_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    port = free_port()
    server = start_redis(tmp_path / "redis", port, tmp_path / "redis.log")
    found = Settings.load(data_dir=tmp_path).redis_url
    server.stop()
    assert found == redis_url(tmp_path / "redis", port)
    assert Settings.load(data_dir=tmp_path).redis_url == "redis://127.0.0.1:6379/0"
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/0")
    assert Settings.load(data_dir=tmp_path).redis_url == "redis://elsewhere/0"
