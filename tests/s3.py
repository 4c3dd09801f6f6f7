"""A real server of S3's protocol on this machine, moto's, which uv gets into an environment of its own."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from uv import find_uv_bin

from av2t.stack.process import Process, answers
from tests.ports import free_port

MOTO = "moto[s3,server]==5.2.5"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-read",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def command() -> list[str]:
    """That starts it; skips where it, or s3fs, is not to be had."""
    if find_spec("s3fs") is None:
        pytest.skip("needs s3fs: `uv sync --extra s3`")
    run = [find_uv_bin(), "tool", "run", "--from", MOTO, "moto_server"]
    if subprocess.run([*run, "--help"], capture_output=True).returncode == 0:
        return run
    if (program := shutil.which("moto_server")) is None:
        pytest.skip(f"needs moto_server, from a network or on the path: `uv tool install '{MOTO}'`")
    return [program]


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """Its address."""
    port = free_port()
    server = Process("S3", [*command(), "-H", "127.0.0.1", "-p", str(port)], log=log, environment={})
    try:
        url = f"http://127.0.0.1:{port}"
        server.wait_until(lambda: answers(f"{url}/moto-api/"), timeout=60)
        yield url
    finally:
        server.stop()


def make_bucket(url: str, name: str) -> None:
    httpx.put(f"{url}/{name}").raise_for_status()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process go to the server at this address."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # in which one keeps the address that it was made with
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": url}.items():
        monkeypatch.setenv(name, value)
