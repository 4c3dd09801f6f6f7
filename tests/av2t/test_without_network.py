"""With the network cut, every command that needs weights says at once how to get them.

The commands run as a user runs them, in a network namespace of their own, which has no network at all. That they do so
within 5 s was measured; here only hanging is an error.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.clips import at_rate, write_clip

COMMANDS = {
    "predict": ["predict", "clip.mp4", "--out", "result", "--model", "sam2-l"],
    "evaluate": ["evaluate", ".", "--layout", "ms3", "--model", "sam2-l"],
    "bench": ["bench", "clip.mp4"],
    "worker": ["worker"],
    "backend": ["backend"],
    "up": ["up", "--no-label-studio"],
}
PULL = ["weights", "pull", "sam2-l"]
HOW = (
    "the weights of sam2-l are not in data/models: `av2t weights pull sam2-l` fetches them (about 5 GB), `av2t weights"
)


@pytest.fixture(scope="session")
def cut_off() -> list[str]:
    """What goes before a command so that it has no network."""
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("needs the right to make a network namespace (unshare --net)")


@pytest.fixture
def av2t(tmp_path: Path) -> Callable[..., str]:
    """Run it and return its one sentence."""

    def run(before: list[str], arguments: list[str], **environment: str) -> str:
        command = [*before, sys.executable, "-m", "av2t", *arguments]
        settings = {"AV2T_DATA_DIR": "data", "AV2T_MODEL": "sam2-l", "LABEL_STUDIO_API_KEY": "key"}
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=120,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **settings, **environment},
        )
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("av2t: error: ")
        assert (result.stderr.count("\n"), result.stdout) == (1, "")
        return result.stderr

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_what_needs_weights_says_how_to_get_them(
    command: str, av2t: Callable[..., str], cut_off: list[str], tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.mp4", at_rate(5, 1))
    assert HOW in av2t(cut_off, COMMANDS[command])


def assert_says_how(sentence: str) -> None:
    assert "cannot be reached" in sentence
    assert "…_mul_adapter_evf_sam2_ms3_best.pth of Kyungbok/AV2T-SAM" in sentence
    assert "`av2t weights import sam2-l FILE…`" in sentence


def test_pull_without_any_network(av2t: Callable[..., str], cut_off: list[str]) -> None:
    """No address can be looked up."""
    assert_says_how(av2t(cut_off, PULL, HF_ENDPOINT="https://huggingface.co"))


def test_pull_where_packets_vanish(av2t: Callable[..., str], cut_off: list[str]) -> None:
    """As behind a firewall that drops: looking up an address takes as long as the system likes."""
    script = (
        "ip tuntap add dev hole mode tun && ip address add 10.0.0.1/24 dev hole && ip link set hole up &&"
        ' ip route add default dev hole && exec "$@"'
    )
    before = [*cut_off, "sh", "-c", script, "sh"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `ip` and the right to make a TUN device")
    assert_says_how(av2t(before, PULL, HF_ENDPOINT="https://huggingface.co"))
    assert_says_how(av2t(before, PULL, HF_ENDPOINT="https://10.9.9.9"))


def test_pull_where_nobody_listens(av2t: Callable[..., str]) -> None:
    assert_says_how(av2t([], PULL, HF_ENDPOINT="http://127.0.0.1:9"))


def test_pull_when_told_to_stay_offline(av2t: Callable[..., str]) -> None:
    sentence = av2t([], PULL, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in sentence
    assert "`av2t weights import sam2-l FILE…`" in sentence
