"""How a function's signature becomes a command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from av2t.options import Count
from av2t.signature import Arg, Parser, choose
from av2t_core.errors import AV2TError

called: dict[str, Any] = {}
TABLE = {
    "run": (f"{__name__}:run", "run it"),
    "stop": (f"{__name__}:stop", "stop it"),
    "more": (f"{__name__}:MORE", "more of it"),
}
MORE = {"stop": (f"{__name__}:stop", "stop it")}


@dataclass(frozen=True, kw_only=True)
class Speed:
    steps: Count = 3
    slow: bool | None = None


def run(
    source: Annotated[Path, Arg("where from", "SOURCE")],
    rest: Annotated[Sequence[str], Arg(metavar="REST")],
    *,
    out: Path,
    layout: Annotated[Literal["s4", "ms3"], Arg("how it lies")] = "s4",
    also: list[str] | None = None,
    several: Sequence[str] = (),
    speed: Annotated[Speed, Arg(group="how fast")],
    loud: bool = False,
) -> int:
    """Run it.

    examples:
      run it
    """
    called.update(locals())
    return 7


def stop(
    *,
    all: Annotated[bool, Arg(exclusive=True)] = False,
    task: Annotated[int | None, Arg("one", "N", exclusive=True)] = None,
) -> None:
    called.update(all=all, task=task)


def command(line: str) -> int:
    called.clear()
    return choose(Parser("it", "It does it."), TABLE, line.split())


def test_values_have_the_types_of_the_signature() -> None:
    assert command("run here a b --out there --also x --also y --several 1 2 --steps 5 --no-slow --loud") == 7
    assert called == {
        "source": Path("here"),
        "rest": ["a", "b"],
        "out": Path("there"),
        "layout": "s4",
        "also": ["x", "y"],
        "several": ["1", "2"],
        "speed": Speed(steps=5, slow=False),
        "loud": True,
    }


def test_what_is_left_out_has_the_default_of_the_signature() -> None:
    command("run here a --out there")
    assert (called["also"], called["several"], called["loud"]) == (None, (), False)
    assert called["speed"] == Speed()


def test_a_command_that_returns_nothing_has_succeeded() -> None:
    assert command("stop --task 3") == 0
    assert command("more stop --all") == 0
    assert called == {"all": True, "task": None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rum", "there is no command 'rum'; did you mean `it run`?"),
        ("xyz", "there is no command 'xyz'; there are run, stop, more"),
        ("more stpo", "did you mean `it more stop`?"),
        ("run here a", "the following arguments are required: --out; see `it run --help`"),
        ("run here a --out b --layout s5", r"argument --layout: invalid choice: 's5' \(choose from 's4', 'ms3'\)"),
        ("run here a --out b --steps 0", "argument --steps: '0' must be a whole number, 1 or more"),
        ("stop", "one of the arguments --all --task is required"),
        ("stop --all --task 3", "argument --task: not allowed with argument --all"),
        ("stop --task x", "argument --task: invalid int value: 'x'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(line: str, message: str) -> None:
    with pytest.raises(AV2TError, match=message):
        command(line)
    assert called == {}


def test_help_is_the_docstring_and_the_signature(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("run --help")
    help_text = capsys.readouterr().out
    assert help_text.startswith("usage: it run [-h] --out OUT [--layout {s4,ms3}]")
    assert "  --layout {s4,ms3}     how it lies (default: s4)\n" in help_text
    assert "how fast:\n  --steps STEPS         default: 3\n" in help_text
    assert help_text.endswith("examples:\n  run it\n")


def test_without_a_command_the_table_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("more") == 2
    assert re.search(r"^    stop +stop it$", capsys.readouterr().err, re.M)
