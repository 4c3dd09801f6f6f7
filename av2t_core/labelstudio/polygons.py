"""A mask as the polygons of its parts, and what a polygon covers."""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1 / 720  # how far a polygon may be from the edge of its mask, as a share of the picture's height
_FINE = 2
# A contour runs through the middles of the outermost pixels, which at _FINE times the size are so far inside the edge.
_INSIDE = 0.5 / _FINE
_ROWS = 2**20  # that edges pass, filled at once


def polygons(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Mask (H, W) to a ring (n, 2) of x, y in pixels, n >= 3, for each of its parts, the largest first.

    A part's holes are cut out of it: the ring goes over to each along a line and back by the same, for neither Label
    Studio's polygons nor those of most formats have holes.
    """
    height = mask.shape[0]
    epsilon = max(_INSIDE, TOLERANCE * height - _INSIDE) * _FINE
    fine = np.asarray(np.kron(mask.view(np.uint8), np.ones((_FINE, _FINE), np.uint8)), np.uint8)
    found, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if tree is None:
        return []
    # (n, 1, 2) of the fine mask to (m, 2), in pixels of the mask
    simple = [(cv2.approxPolyDP(each, epsilon, closed=True)[:, 0].astype(np.float64) + 0.5) / _FINE for each in found]
    parents = tree[0, :, 3].tolist()
    holes = defaultdict(list)  # by the part that they are in
    for ring, parent in zip(simple, parents, strict=True):
        if parent >= 0 and len(ring) >= 3:
            holes[parent].append(ring)
    rings = [_keyhole(ring, holes[index]) for index, ring in enumerate(simple) if parents[index] < 0]
    rings = [ring for ring in rings if len(ring) >= 3]
    return sorted(rings, key=lambda ring: cv2.contourArea(ring.astype(np.float32)), reverse=True)


def filled(ring: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Ring (n, 2) of x, y in pixels to the mask (H, W) of the pixels whose middles it winds around, as the page fills.

    Where the ring goes over to a hole and back by the same line, neither counts: the hole stays one.
    """
    height, width = shape
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    # Of each edge the rows whose middles it passes, those of its upper end with it and those of its lower end without.
    top, bottom = (np.clip(np.ceil(end(y, next_y) - 0.5), 0, height).astype(int) for end in (np.minimum, np.maximum))
    winding = np.zeros((height, width + 1), np.int32)  # the last column is for what lies beside the picture
    # Some edges at a time: all of a long ring in a high picture pass more rows than there is memory for.
    some = max(1, _ROWS // height)
    for first in range(0, len(ring), some):
        at = slice(first, first + some)
        count = bottom[at] - top[at]
        row = np.arange(count.sum()) + np.repeat(top[at] - np.cumsum(count) + count, count)
        edges = x[at], y[at], next_x[at] - x[at], next_y[at] - y[at]
        begin, upper, right, down = (np.repeat(each, count) for each in edges)
        column = np.clip(np.ceil(begin + (row + 0.5 - upper) / down * right - 0.5), 0, width).astype(int)
        np.add.at(winding, (row, column), np.sign(down).astype(np.int32))
    return np.asarray(winding.cumsum(axis=1, dtype=np.int32)[:, :width] != 0)


def numbers(rows: Sequence[Sequence[object]]) -> NDArray[np.float64]:
    """What an annotation gives as numbers; ValueError."""
    for each in (each for row in rows for each in row):
        if isinstance(each, bool) or not isinstance(each, int | float) or not abs(each) <= 1000:  # NaN is not
            raise ValueError(f"one of its numbers is {each!r}")
    return np.array(rows, np.float64)


def _keyhole(ring: NDArray[np.float64], holes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Every hole is reached from the point of the ring that is nearest to it, the nearest hole first."""
    left = list(holes)
    while left:
        ways = [np.linalg.norm(ring[:, None] - hole, axis=-1) for hole in left]
        nearest = int(np.argmin([way.min() for way in ways]))
        i, j = np.unravel_index(int(ways[nearest].argmin()), ways[nearest].shape)
        hole = left.pop(nearest)
        ring = np.concatenate([ring[: i + 1], np.roll(hole, -j, axis=0), hole[j : j + 1], ring[i:]])
    return ring
