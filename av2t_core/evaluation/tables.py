"""The paper's Tables 1 and 2: the models in their rows, and their published scores."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from av2t_core.data.avsbench import Layout
from av2t_core.model.config import Feature


@dataclass(frozen=True)
class Published:
    """mIoU in per cent, and F; None for a number that the text of the paper does not give."""

    miou: float | None = None
    f: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """`preset` is one that also exists without adapters."""

    table: int
    what: str
    preset: str
    adapter: bool = True
    feature: Feature = "mul"
    published: Mapping[Layout, Published]


def _published(s4: Published, ms3: Published) -> Mapping[Layout, Published]:
    return {"s4": s4, "ms3": ms3}


_SAM1 = _published(Published(83.11, 0.901), Published(55.81, 0.634))
_SAM1_ADAPTERS = _published(Published(85.78, 0.919), Published(65.76, 0.738))
_SAM2 = _published(Published(85.63, 0.920), Published(64.47, 0.704))
_SAM2_ADAPTERS = _published(Published(86.67, 0.924), Published(69.65, 0.777))

# Section 5.3 gives Table 2's in one case: what CLIP's feature alone scores on S4.
_SAM2_CLAP = _published(Published(), Published())
_SAM2_CLIP = _published(Published(86.67), Published())

ROWS = (
    Row(table=1, what="SAM, no adapters", preset="sam1-h", adapter=False, published=_SAM1),
    Row(table=1, what="SAM, adapters", preset="sam1-h", published=_SAM1_ADAPTERS),
    Row(table=1, what="SAM2, no adapters", preset="sam2-l", adapter=False, published=_SAM2),
    Row(table=1, what="SAM2, adapters", preset="sam2-l", published=_SAM2_ADAPTERS),
    Row(table=2, what="SAM2, CLAP alone", preset="sam2-l", feature="clap", published=_SAM2_CLAP),
    Row(table=2, what="SAM2, CLIP alone", preset="sam2-l", feature="clip", published=_SAM2_CLIP),
    Row(table=2, what="SAM2, CLAP x CLIP", preset="sam2-l", published=_SAM2_ADAPTERS),
)
TINY = "tiny"


def rows_of(preset: str) -> list[Row]:
    """The rows of a preset. `tiny`, which the paper does not have, stands in those of SAM2."""
    if preset == TINY:
        return [replace(row, preset=TINY, what=row.what.replace("SAM2", TINY)) for row in rows_of("sam2-l")]
    return [row for row in ROWS if row.preset == preset]
