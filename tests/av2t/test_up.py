"""`av2t up` as a program: what it refuses, and that it leaves nothing behind however it ends."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LabelStudioServer, wait_until
from tests.up import Up, options, ports, runs

READY = "Ctrl-C stops"


@pytest.fixture
def stack(tmp_path: Path, label_studio: LabelStudioServer) -> Iterator[Up]:
    """All but Label Studio, ready."""
    keys = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.api_key}
    with Up(tmp_path / "data", "--no-label-studio", *options(ports()), environment=keys) as up:
        up.wait_for(READY)
        yield up


@pytest.mark.parametrize("option", ["--label-studio-port", "--backend-port", "--redis-port"])
def test_a_taken_port_is_named_with_its_option_and_nothing_is_started(tmp_path: Path, option: str) -> None:
    chosen = ports()
    with socket.create_server(("127.0.0.1", chosen[option])), Up(tmp_path / "data", *options(chosen)) as up:
        assert up.wait() == 2
    [line] = up.lines
    assert line.startswith("av2t: error: port ")
    assert str(chosen[option]) in line
    assert option in line
    assert not (tmp_path / "data" / "logs").exists()


def test_ctrl_c_stops_all_that_was_started(stack: Up) -> None:
    started = stack.processes()
    names = " ".join(" ".join(process.cmdline()) for process in started)
    assert all(name in names for name in ("valkey-server", "av2t backend", "av2t worker"))
    stack.send(signal.SIGINT)
    assert stack.wait() == 0
    assert [process for process in started if runs(process)] == []


def test_killed_it_leaves_nothing_running_and_the_next_start_goes_on(stack: Up) -> None:
    started = stack.processes()
    stack.send(signal.SIGKILL)
    stack.wait()
    wait_until(lambda: not any(map(runs, started)), what="the end of what was started")
    with Up(stack.data_dir, *stack.arguments, environment=stack.environment) as again:
        again.wait_for(READY)
        again.send(signal.SIGTERM)
        assert again.wait() == 0
    assert {"worker.log", "trainer.log"} <= {log.name for log in (stack.data_dir / "logs" / "previous").iterdir()}


def test_a_program_that_dies_ends_all_and_its_last_words_are_shown(stack: Up) -> None:
    [backend] = [process for process in stack.processes() if "backend" in process.cmdline()]
    started = stack.processes()
    os.kill(backend.pid, signal.SIGKILL)
    assert stack.wait() == 2
    assert "av2t: error: The backend ended with signal SIGKILL; the end of its log" in stack.output
    assert "The backend listens on" in stack.output
    assert [process for process in started if runs(process)] == []


def test_without_label_studio_a_key_is_asked_for(tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--no-label-studio", *options(ports()), environment={"LABEL_STUDIO_API_KEY": ""}) as up:
        assert up.wait() == 2
    assert "av2t: error: LABEL_STUDIO_API_KEY is not set" in up.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--demo", "--no-label-studio"], "leave out one of --demo and --no-label-studio"),
        (["--redis-port", "70000"], "'70000' is not a port"),
        (["--data-dir", "/proc/here"], "the folder /proc/here cannot be used"),
        (["--data-dir", os.fsdecode(b"caf\xe9")], r"caf\udce9: its path is no UTF-8; choose another with --data-dir"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    with Up(tmp_path / "data", *options(ports()), *arguments) as up:
        assert up.wait() == 2
    [line] = up.lines
    assert line.startswith("av2t: error: ")
    assert sentence in line


def test_a_redis_that_does_not_answer_is_named(tmp_path: Path) -> None:
    chosen = ports()
    with Up(tmp_path / "data", *options(chosen), environment={"REDIS_URL": "redis://127.0.0.1:1/0"}) as up:
        assert up.wait() == 2
    assert "av2t: error: Redis at 127.0.0.1:1/0 cannot be used" in up.output
