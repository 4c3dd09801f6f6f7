import tracemalloc
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from av2t_core.labelstudio.polygons import filled, polygons

UP = 4


def drawn(rings: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What the rings cover, by the middles of the pixels."""
    fine = np.zeros((shape[0] * UP, shape[1] * UP), np.uint8)
    for ring in rings:
        one = np.zeros_like(fine)
        cv2.fillPoly(one, [np.round(ring * UP - 0.5).astype(np.int32)], 1)
        fine |= one
    return fine[UP // 2 :: UP, UP // 2 :: UP].astype(bool)


def distance_to_edge(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside, outside = (cv2.distanceTransform(m.view(np.uint8), cv2.DIST_L2, 5) for m in (mask, ~mask))
    return np.asarray(np.maximum(inside, outside) - 0.5, np.float32)  # from middle to middle of pixels


@pytest.mark.parametrize("height", [90, 720, 1080])
def test_they_stay_within_a_pixel_at_720_lines(height: int) -> None:
    """Of blobs with holes, some of them cut off by the picture's edge."""
    noise = np.random.default_rng(0).normal(size=(height, height * 16 // 9))
    smooth = cv2.GaussianBlur(noise, (0, 0), height / 24)
    mask = smooth > 0.3 * smooth.std()
    rings = polygons(mask)
    again = np.logical_or.reduce([filled(ring, mask.shape) for ring in rings])
    for wrong in (drawn(rings, mask.shape) ^ mask, again ^ mask):
        assert distance_to_edge(mask)[wrong].max(initial=0) <= max(0.5, height / 720)
    count, _ = cv2.connectedComponents(mask.view(np.uint8))
    assert len(rings) == count - 1
    assert sum(map(len, rings)) < 2000


def test_a_hole_is_cut_out() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:18] = True
    mask[5:8, 5:8] = mask[10:15, 10:15] = False
    (ring,) = polygons(mask)
    assert (drawn([ring], mask.shape) == mask).all()
    assert (filled(ring, mask.shape) == mask).all()


def test_the_smallest_and_none() -> None:
    mask = np.zeros((9, 9), bool)
    assert polygons(mask) == []
    mask[3, 4] = True
    (ring,) = polygons(mask)
    assert (drawn([ring], mask.shape) == mask).all()
    assert (filled(ring, mask.shape) == mask).all()


def test_the_largest_part_is_first() -> None:
    mask = np.zeros((20, 40), bool)
    mask[2:5, 2:5] = mask[2:18, 10:38] = True
    first, second = polygons(mask)
    assert first[:, 0].min() > 9 > second[:, 0].max()


def test_filled_are_the_pixels_whose_middles_lie_inside() -> None:
    ring = np.array([[1.5, 1.5], [4.5, 1.5], [4.5, 3.5], [1.5, 3.5]])
    for each in (ring, ring[::-1]):  # on the edge: what lies right of it and below
        assert np.argwhere(filled(each, (6, 6))).tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]
    assert filled(ring + 0.01, (6, 6)).sum() == 6
    assert filled(ring - 0.01, (6, 6)).sum() == 6
    triangle = np.array([[0, 0], [4, 0], [0, 4]])
    assert filled(triangle, (4, 4)).tolist() == [[x + y + 1 < 4 for x in range(4)] for y in range(4)]


def test_what_lies_beside_the_picture_is_cut_off() -> None:
    around = np.array([[-50.0, -50], [50, -50], [50, 50], [-50, 50]])
    assert filled(around, (7, 9)).all()
    for shift in ([100, 0], [0, 100], [-100, 0], [0, -100]):
        assert not filled(around + shift, (7, 9)).any()


def test_where_a_ring_crosses_itself_it_is_filled_as_the_page_does() -> None:
    """By how often it winds around, not by how often it is crossed: the middle of a five-pointed star belongs to it."""
    angles = np.arange(5) * 4 * np.pi / 5
    star = 10 + 9 * np.stack([np.sin(angles), -np.cos(angles)], axis=-1)
    assert filled(star, (20, 20))[9:11, 9:11].all()


def test_a_long_ring_in_a_high_picture_takes_no_more_memory_than_its_parts() -> None:
    """Up and down again and again: every edge passes every row."""
    ring = np.stack([np.linspace(0, 64, 4000), np.tile([0.0, 2160.0], 2000)], axis=-1)
    tracemalloc.start()
    try:
        mask = filled(ring, (2160, 64))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150e6  # its edges pass 8.6 million rows, of which each takes 80 bytes
    points = np.array([[10.0, 5], [50, 20], [30, 90], [5, 60], [60, 60]])
    assert 0 < mask.mean() < 1
    # A point in the middle of an edge changes nothing, so an outline may fall into any number of parts.
    between = np.linspace(points, np.roll(points, -1, axis=0), 50000, endpoint=False).swapaxes(0, 1).reshape(-1, 2)
    assert (filled(between, (100, 70)) == filled(points, (100, 70))).all()
