from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from av2t_core.labelstudio.controls import DrawnTag, Mask, Region, Size
from av2t_core.limits import POLYGON_POINTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Vertex = Mapping[str, Any]

_STEPS = 64  # straight pieces that a curve is drawn in


class VectorLabels(DrawnTag):
    """A path of lines and Bézier curves, in per cent of the frame's sides. A closed one is a mask."""

    def read(self, region: Region, shape: Size) -> Mask:
        import numpy as np

        from av2t_core.labelstudio.polygons import filled

        vertices, closed = region["value"].get("vertices"), region["value"].get("closed")
        if closed is not True:
            raise ValueError("it is a line that is not closed")
        if (
            not isinstance(vertices, list)
            or len(vertices) < 3
            or not all(isinstance(each, Mapping) for each in vertices)
        ):
            raise ValueError("it has no vertices that make a path")
        if len(vertices) > POLYGON_POINTS:
            raise ValueError(f"it has {len(vertices):,} vertices, and at most {POLYGON_POINTS:,} can be used")
        path = _in_order(vertices)
        if path[0].get("prevPointId"):  # the last one's; otherwise a straight line closes the path
            path.append(path[0])
        last = {side: path[-1].get(side) for side in ("x", "y")}
        ring = np.concatenate([_piece(*pair) for pair in zip(path, [*path[1:], last], strict=True)])
        return filled(ring / 100 * shape[::-1], shape)


def _in_order(vertices: Sequence[Vertex]) -> list[Vertex]:
    """As each names the one before it; as they come where none does."""
    after = {str(each["prevPointId"]): each for each in vertices if each.get("prevPointId")}
    if not after:
        return list(vertices)
    path = [next((each for each in vertices if not each.get("prevPointId")), vertices[0])]
    while len(path) < len(vertices) and (found := after.pop(str(path[-1].get("id")), None)):
        path.append(found)
    if len(path) < len(vertices):
        raise ValueError("its path branches or breaks off")
    return path


def _piece(start: Vertex, end: Vertex) -> "NDArray[np.float64]":
    """(n, 2): the path from one vertex to the next, without the latter. Where one of them has no handle for a curve,
    its handle lies on the line between them, as the page has it."""
    import numpy as np

    from av2t_core.labelstudio.polygons import numbers

    a, b = numbers([[each.get(side) for side in ("x", "y")] for each in (start, end)])
    leaving, coming = (_handle(each, name) for each, name in ((start, "controlPoint2"), (end, "controlPoint1")))
    if leaving is None and coming is None:
        return np.asarray(a[None])
    leaving = a + 0.3 * (b - a) if leaving is None else leaving
    coming = b - 0.3 * (b - a) if coming is None else coming
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    return np.asarray((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * leaving + 3 * (1 - t) * t**2 * coming + t**3 * b)


def _handle(vertex: Vertex, name: str) -> "NDArray[np.float64] | None":
    import numpy as np

    from av2t_core.labelstudio.polygons import numbers

    handle = vertex.get(name)
    if not vertex.get("isBezier") or not isinstance(handle, Mapping):
        return None
    return np.asarray(numbers([[handle.get(side) for side in ("x", "y")]])[0])
