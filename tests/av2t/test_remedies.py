"""What errors of the core tell a person to do; the core itself knows no command, option or variable."""

import re
from pathlib import Path

import pytest

import av2t_core
from av2t.remedies import how_to_get, told
from av2t_core.errors import AV2TError, Remedy


def test_the_core_names_no_command_option_or_variable() -> None:
    shell = re.compile(r"\bav2t [a-z]|AV2T_|--[a-z]")
    core = Path(av2t_core.__file__).parent
    found = [
        f"{path.relative_to(core)}: {line.strip()}"
        for path in core.rglob("*.py")
        # The variables are declared in one, the other is a command itself.
        if path not in (core / "settings.py", core / "data" / "real_clips.py")
        for line in path.read_text().splitlines()
        if shell.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("remedy", Remedy)
def test_every_remedy_has_its_words(remedy: Remedy) -> None:
    fields = {"root": "DATA", "layout": "s4", "name": "sam2-l", "project": 3, "what": "AV2T-SAM", "page": "PAGE"}
    sentence = told(AV2TError("it is wrong", remedy, **fields))
    assert sentence.startswith("it is wrong: ")
    assert "{" not in sentence


def test_an_error_without_a_remedy_is_told_as_it_is() -> None:
    assert told(AV2TError("it is wrong; correct it")) == "it is wrong; correct it"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("sam2-l", "av2t weights pull sam2-l`"),
        ("sam2-l-ms3", "av2t weights pull sam2-l --dataset ms3`"),
        ("sam2-l-noadapter-clip-s4", "av2t weights pull sam2-l-noadapter --feature clip --dataset s4`"),
        ("sam1-h-start", "av2t weights pull sam1-h --start`"),
    ],
)
def test_how_to_get_what_is_published(name: str, command: str) -> None:
    assert command in how_to_get(name)
    assert "av2t weights import" in how_to_get(name)


def test_how_to_get_what_is_not_known_to_be_published() -> None:
    assert how_to_get("sam2-l-laion-s4").startswith("no such model is known to be published; `av2t weights im")
    assert how_to_get("sam2-l-laion").endswith(
        "`av2t weights pull sam2-l-laion --start` fetches EVF-SAM2 to train one from"
    )
    assert how_to_get("sam2-l-laion-start").startswith("`av2t weights pull sam2-l-laion --start` fetches them")


@pytest.mark.parametrize("name", ["tiny", "sam2", "sam2-l-mul-ms3", "mine-1"])
def test_what_is_not_published(name: str) -> None:
    assert how_to_get(name) == ""
