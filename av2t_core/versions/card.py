"""The card of a model version: where it is from, what it is made of and how good it is. Unknown fields are kept.

A card may be from anybody: from a bundle, a model store, or a folder that somebody has worked in.
"""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from av2t_core.limits import CARD_SENTENCE, LARGEST_CARD
from av2t_core.model.config import Feature
from av2t_core.versions.names import is_part_file

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
_Sentence = Annotated[str, StringConstraints(max_length=CARD_SENTENCE)]
_Line = Annotated[tuple[float, ...], Field(min_length=6, max_length=6)]


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    def as_json(self) -> dict[str, Any]:
        """The fields that it was made of or read from, and no defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


class Part(_Fields):
    """A file of tensors that several versions may share."""

    file: str
    sha256: _Sha256


def _named_by_content(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if not all(is_part_file(part.file, part.sha256) for part in parts):
        raise ValueError("a part is not called by its content")
    if len({part.file for part in parts}) != len(parts):
        raise ValueError("a part is named twice")
    return parts


class CalibrationLines(_Fields):
    """See `calibration.Calibration`."""

    presence: _Line
    right: _Line


class Verdict(_Fields):
    better: bool
    sentence: _Sentence


class Metrics(_Fields):
    held_out_clips: int | None = None
    before: dict[str, float | None] | None = None
    after: dict[str, float | None] | None = None
    difference: dict[str, float | None] | None = None
    agreement: dict[str, Any] = {}


class Clip(_Fields):
    """`use`: training, held out, or left out, which has a `reason`."""

    use: _Sentence
    sha256: str | None = None
    reason: str | None = None


class Data(_Fields):
    clips: tuple[Clip, ...] = ()


class Card(_Fields):
    """`parent`: what it was trained from; `onto_parent`: its tensors go over those of that one. `start`: EVF-SAM alone.

    `names`: what it has learnt to call things beside what its root knows. `sha256` is the weights'.
    """

    preset: _Sentence
    sha256: _Sha256
    labels: tuple[str, ...]
    feature: Feature = "mul"
    parent: _Sentence | None = None
    parent_sha256: str | None = None
    onto_parent: bool = False
    parts: Annotated[tuple[Part, ...], AfterValidator(_named_by_content)] = ()
    replay_sha256: _Sha256 | None = None
    names: tuple[str, ...] | None = None
    start: bool = False
    project: int | None = None
    created: _Sentence | None = None
    calibration: CalibrationLines | None = None
    verdict: Verdict | None = None
    metrics: Metrics | None = None
    data: Data | None = None
    recipe: dict[str, Any] | None = None
    source: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """ValueError: it is no card that can be used, in words for a sentence."""
        if len(text) > LARGEST_CARD:
            raise ValueError(f"it has more than {LARGEST_CARD:,} bytes")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ValueError(f"{field}: {first['msg']}" if field else first["msg"]) from None

    @classmethod
    def parse_usable(cls, text: bytes) -> Self | None:
        """As `parse`; None if it cannot be used."""
        try:
            return cls.parse(text)
        except ValueError:
            return None

    @property
    def loads_onto(self) -> str | None:
        return self.parent if self.onto_parent else None

    @property
    def is_fresh(self) -> bool:
        """Whether it is a model that was published, shipped or trained from nothing, and no start alone."""
        return self.parent is None and not self.start

    @property
    def clips(self) -> tuple[Clip, ...]:
        return self.data.clips if self.data else ()
