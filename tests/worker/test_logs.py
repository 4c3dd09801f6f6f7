"""The lines that worker and backend log: one for each thing, whatever it quotes."""

import io
import json
import logging
from collections.abc import Callable

import pytest

from av2t_core.text import lines, one_line, sentence
from worker.logs import log_to_stderr
from worker.settings import Settings

FORGED = "2026-01-01 00:00:00 INFO all is well"
NASTY = f"a\n{FORGED}\r\x1b[2J\x9b31m\u2028{FORGED}\u202egpj\ud800\x00 \u0436"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    def log(form: str) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
        monkeypatch.setattr("sys.stderr", stream)
        log_to_stderr(Settings.load(log_format=form))
        logger = logging.getLogger("av2t.test")
        logger.warning("%s", NASTY)
        try:
            raise ValueError(NASTY)
        except ValueError:
            logger.exception("It failed: %s", NASTY)
        stream.seek(0)
        return stream.read()

    return log


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_value_makes_a_line_or_steers_a_terminal(logged: Callable[[str], str], form: str) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        written = logged(form)
    finally:
        root.handlers[:], root.level = before
    assert not [line for line in written.splitlines() if line.startswith(FORGED)]
    assert one_line(written.replace("\n", "")) == written.replace("\n", "")
    assert "\u0436" in written
    found = [line for line in written.splitlines() if not line.startswith("  ")]
    assert len(found) == 2
    if form == "json":
        assert "ValueError" in json.loads(found[1])["traceback"]
    else:
        assert "  Traceback (most recent call last):\n" in written


def test_one_line() -> None:
    assert one_line("a\tb\n\x1b[2J\u2028\ud800 \u0436 \u00a0\U0001f436") == (
        r"a\tb\n\x1b[2J\u2028\ud800" + " \u0436 \u00a0\U0001f436"
    )
    assert lines("a\nb\x1b") == "a\nb\\x1b"
    assert sentence("x" * 10_000) == "x" * 2000 + "…"
