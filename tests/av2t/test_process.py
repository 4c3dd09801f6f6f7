import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from av2t.stack.process import Process, check_port
from av2t_core.errors import AV2TError
from tests.conftest import wait_until
from tests.ports import free_port
from tests.up import runs

FOREVER = "import time; time.sleep(600)"


def start(tmp_path: Path, program: str, **environment: str) -> Process:
    return Process("The thing", [sys.executable, "-c", program], log=tmp_path / "thing.log", environment=environment)


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, "import os, sys; print(os.environ['GREETING']); sys.exit('bye')", GREETING="hello")
    assert process.wait() == 1
    assert (tmp_path / "thing.log").read_text().split() == ["hello", "bye"]


def test_an_early_end_is_told_with_its_code_and_the_log_of_this_run_only(tmp_path: Path) -> None:
    (tmp_path / "thing.log").write_text("of an earlier run\n")
    process = start(tmp_path, "import sys; print('no room'); sys.exit(3)")
    process.wait()
    with pytest.raises(AV2TError, match=r"(?s)The thing ended with exit code 3; .*thing\.log:\n  no room$") as told:
        process.check()
    assert "earlier" not in str(told.value)


def test_an_end_by_a_signal_is_told_by_its_name(tmp_path: Path) -> None:
    process = start(tmp_path, "import os; os.abort()")
    process.wait()
    with pytest.raises(AV2TError, match="signal SIGABRT"):
        process.check()


def test_waiting_for_what_never_comes_ends_with_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, FOREVER)
    with pytest.raises(AV2TError, match="The thing was not ready after 0 s"):
        process.wait_until(lambda: False, timeout=0)
    process.stop()
    assert process.exit_code == -signal.SIGTERM


def test_stop_reaches_what_ignores_sigterm_and_what_the_program_started(tmp_path: Path) -> None:
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"print(subprocess.Popen([sys.executable, '-c', {FOREVER!r}]).pid, flush=True); time.sleep(600)"
    )
    process = start(tmp_path, program)
    grandchild = psutil.Process(int(wait_until((tmp_path / "thing.log").read_text)))
    process.stop(grace=0.1)
    assert process.exit_code == -signal.SIGKILL
    wait_until(lambda: not runs(grandchild), what="the end of the grandchild")


def test_it_dies_with_its_starter_even_if_that_is_killed(tmp_path: Path) -> None:
    starter = (
        "import sys, time; from pathlib import Path; from av2t.stack.process import Process;"
        f"p = Process('x', [sys.executable, '-c', {FOREVER!r}], log=Path({str(tmp_path / 'x.log')!r}));"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        child = psutil.Process(int(popen.stdout.readline()))
        os.kill(popen.pid, signal.SIGKILL)
    wait_until(lambda: not runs(child), what="the end of the child")


def test_a_taken_port_is_told_with_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(AV2TError, match=rf"port {port} for the backend is taken .* --backend-port"):
            check_port(port, purpose="the backend", option="--backend-port")


def test_a_free_port_is_accepted() -> None:
    check_port(free_port(), purpose="the backend", option="--backend-port")
