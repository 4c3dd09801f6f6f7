"""The paper's Tables 1 and 2: which models stand in their rows, and what was published of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from av2t_core.data.avsbench import Layout
from av2t_core.model.config import Feature


@dataclass(frozen=True)
class Published:
    """mIoU in per cent, and F; None for a number that the text of the paper does not give."""

    miou: float | None
    f: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """`preset` is one with adapters, which `adapter` leaves out."""

    table: int
    what: str
    preset: str
    adapter: bool = True
    feature: Feature = "mul"
    published: Mapping[Layout, Published]


_SAM2_L: Mapping[Layout, Published] = {"s4": Published(86.67, 0.924), "ms3": Published(69.65, 0.777)}
_UNKNOWN = Published(None, None)

# Section 5.3 gives Table 2's in one case: what CLIP's feature alone scores on S4.
ROWS = (
    Row(
        table=1,
        what="SAM, no adapters",
        preset="sam1-h",
        adapter=False,
        published={"s4": Published(83.11, 0.901), "ms3": Published(55.81, 0.634)},
    ),
    Row(
        table=1,
        what="SAM, adapters",
        preset="sam1-h",
        published={"s4": Published(85.78, 0.919), "ms3": Published(65.76, 0.738)},
    ),
    Row(
        table=1,
        what="SAM2, no adapters",
        preset="sam2-l",
        adapter=False,
        published={"s4": Published(85.63, 0.920), "ms3": Published(64.47, 0.704)},
    ),
    Row(table=1, what="SAM2, adapters", preset="sam2-l", published=_SAM2_L),
    Row(
        table=2,
        what="SAM2, CLAP alone",
        preset="sam2-l",
        feature="clap",
        published={"s4": _UNKNOWN, "ms3": _UNKNOWN},
    ),
    Row(
        table=2,
        what="SAM2, CLIP alone",
        preset="sam2-l",
        feature="clip",
        published={"s4": Published(86.67, None), "ms3": _UNKNOWN},
    ),
    Row(table=2, what="SAM2, CLAP x CLIP", preset="sam2-l", published=_SAM2_L),
)
TINY = "tiny"
_STANDS_FOR = "sam2-l"


def rows_of(preset: str) -> list[Row]:
    """The rows of a preset. `tiny`, which the paper does not have, stands in those of SAM2."""
    if preset != TINY:
        return [row for row in ROWS if row.preset == preset]
    return [replace(row, preset=TINY, what=row.what.replace("SAM2", TINY)) for row in rows_of(_STANDS_FOR)]
