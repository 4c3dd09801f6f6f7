"""The card of a model version: the fields that are used, typed where a card is read; all others stay as they are.

A card may be from anybody: from a bundle, a model store, or a folder that somebody has worked in.
"""

import json
import re
from typing import Annotated, Any, Required

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # before Python 3.12 pydantic wants this one

from av2t_core.limits import CARD_SENTENCE, LARGEST_CARD

_PART = re.compile(r"([a-z0-9][a-z0-9_.-]{0,99})-[0-9a-f]{8}\.safetensors")
_LOOSE = ConfigDict(strict=True, extra="allow")

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
_Sentence = Annotated[str, StringConstraints(max_length=CARD_SENTENCE)]


def part_file(name: str, sha256: str) -> str:
    """What the file of a part is called: by its content, so that the same part is kept once."""
    return f"{name}-{sha256[:8]}.safetensors"


@with_config(_LOOSE)
class _Part(TypedDict):
    file: str
    sha256: _Sha256


def _named_by_content(parts: list[_Part]) -> list[_Part]:
    names = [_PART.fullmatch(part["file"]) for part in parts]
    if not all(name and part_file(name[1], part["sha256"]) == name[0] for name, part in zip(names, parts, strict=True)):
        raise ValueError("a part is not called by its content")
    if len({part["file"] for part in parts}) != len(parts):
        raise ValueError("a part is named twice")
    return parts


@with_config(_LOOSE)
class _Calibration(TypedDict):
    """See `calibration.Calibration`."""

    presence: Annotated[list[float], Field(min_length=6, max_length=6)]
    right: Annotated[list[float], Field(min_length=6, max_length=6)]


@with_config(_LOOSE)
class _Verdict(TypedDict):
    better: bool
    sentence: _Sentence


@with_config(_LOOSE)
class _Metrics(TypedDict, total=False):
    held_out_clips: int | None
    before: dict[str, float | None] | None
    after: dict[str, float | None] | None
    difference: dict[str, float | None] | None
    agreement: dict[str, Any]


@with_config(_LOOSE)
class _Clip(TypedDict, total=False):
    use: Required[_Sentence]
    sha256: str
    reason: str


@with_config(_LOOSE)
class _Data(TypedDict, total=False):
    clips: list[_Clip]


@with_config(_LOOSE)
class _Card(TypedDict, total=False):
    preset: Required[_Sentence]
    sha256: Required[_Sha256]
    labels: Required[list[str]]
    feature: _Sentence
    parent: _Sentence | None
    parent_sha256: str | None
    onto_parent: bool
    parts: Annotated[list[_Part], AfterValidator(_named_by_content)]
    replay_sha256: _Sha256 | None
    names: list[str] | None
    start: bool
    project: int | None
    created: _Sentence | None
    calibration: _Calibration | None
    verdict: _Verdict
    metrics: _Metrics | None
    data: _Data | None
    recipe: dict[str, Any] | None
    source: dict[str, Any]


_ADAPTER = TypeAdapter(_Card)


def parse_card(text: bytes) -> dict[str, Any]:
    """ValueError: it is no card that can be used, in words for a sentence."""
    if len(text) > LARGEST_CARD:
        raise ValueError(f"it has more than {LARGEST_CARD:,} bytes")
    try:
        card = json.loads(text)
        _ADAPTER.validate_python(card)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{field}: {first['msg']}" if field else first["msg"]) from None
    assert isinstance(card, dict)
    return card


def usable_card(text: bytes) -> dict[str, Any] | None:
    """As `parse_card`; None if it cannot be used."""
    try:
        return parse_card(text)
    except ValueError:
        return None
