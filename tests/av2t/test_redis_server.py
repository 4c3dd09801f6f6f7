import os
import signal
from pathlib import Path

import psutil
from redis import Redis

from av2t.process import free_port
from av2t.redis_server import redis_url, start_redis


def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    port = free_port()
    server = start_redis(tmp_path / "data", port, tmp_path / "redis.log")
    with Redis.from_url(redis_url(port)) as client:
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
