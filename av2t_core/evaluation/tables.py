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


def _row(table: int, what: str, preset: str, s4: Published, ms3: Published, feature: Feature = "mul") -> Row:
    adapter = "no adapters" not in what
    published: Mapping[Layout, Published] = {"s4": s4, "ms3": ms3}
    return Row(table=table, what=what, preset=preset, adapter=adapter, feature=feature, published=published)


ROWS = (
    _row(1, "SAM, no adapters", "sam1-h", Published(83.11, 0.901), Published(55.81, 0.634)),
    _row(1, "SAM, adapters", "sam1-h", Published(85.78, 0.919), Published(65.76, 0.738)),
    _row(1, "SAM2, no adapters", "sam2-l", Published(85.63, 0.920), Published(64.47, 0.704)),
    _row(1, "SAM2, adapters", "sam2-l", Published(86.67, 0.924), Published(69.65, 0.777)),
    _row(2, "SAM2, CLAP alone", "sam2-l", Published(), Published(), "clap"),
    # Section 5.3 gives one number of Table 2: what CLIP's feature alone scores on S4.
    _row(2, "SAM2, CLIP alone", "sam2-l", Published(86.67), Published(), "clip"),
    _row(2, "SAM2, CLAP x CLIP", "sam2-l", Published(86.67, 0.924), Published(69.65, 0.777)),
)
TINY = "tiny"


def rows_of(preset: str) -> list[Row]:
    """The rows of a preset. `tiny`, which the paper does not have, stands in those of SAM2."""
    if preset == TINY:
        return [replace(row, preset=TINY, what=row.what.replace("SAM2", TINY)) for row in rows_of("sam2-l")]
    return [row for row in ROWS if row.preset == preset]
