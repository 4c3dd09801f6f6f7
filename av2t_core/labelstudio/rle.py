"""Masks as Label Studio's brush stores them: thi.ng's rle-pack, all four channels of an RGBA image equal to the mask.

Layout, in bits, most significant first: count of values (32), word size - 1 (5), four run sizes - 1 (4 each), then for
every run: 1, index of its run size (2), length - 1 (in that many bits), value (8).
Source: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

import numpy as np
from numpy.typing import NDArray

CHANNELS = 4
WORD = 8
RUN_SIZES = np.array([3, 4, 8, 16])  # bits, so a run holds at most 8, 16, 256 or 65536 values
HEADER = "{count:032b}" + f"{WORD - 1:05b}" + "".join(f"{size - 1:04b}" for size in RUN_SIZES)


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """(H, W) → the bytes of the `rle` of a brush region; True becomes 255, for the page reads alpha."""
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * CHANNELS
    lengths, values = _split(lengths, flat[ends - 1])

    index = np.searchsorted(1 << RUN_SIZES, lengths)
    size = RUN_SIZES[index]
    # One code word for each run, at most 1 + 2 + 16 + 8 = 27 bits.
    words = (((0b100 | index) << size | (lengths - 1)) << WORD) | np.where(values, 255, 0)
    widths = 3 + size + WORD
    position = np.arange(widths.max())
    bits = (words[:, None] >> np.maximum(widths[:, None] - 1 - position, 0)) & 1  # (runs, 27)
    body = bits[position < widths[:, None]]

    header = [int(bit) for bit in HEADER.format(count=flat.size * CHANNELS)]
    packed: list[int] = np.packbits(np.concatenate([header, body]).astype(np.uint8)).tolist()
    return packed


def _split(lengths: NDArray[np.int64], values: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Runs of at most 65536 values; what a long run leaves over comes last."""
    longest = 1 << RUN_SIZES[-1]
    pieces = -(-lengths // longest)
    last = np.cumsum(pieces) - 1
    split = np.full(pieces.sum(), longest)
    split[last] = lengths - (pieces - 1) * longest
    return split, np.repeat(values, pieces)
