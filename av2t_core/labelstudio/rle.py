"""Masks as Label Studio's brush stores them: thi.ng's rle-pack, all four channels of an RGBA image equal to the mask.

Layout, in bits, most significant first: count of values (32), word size - 1 (5), four run sizes - 1 (4 each), then for
every run: 1, index of its run size (2), length - 1 (in that many bits), value (8). The page writes single values as
well: 0, index and length as for a run, then that many values.
Source: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

import numpy as np
from numpy.typing import NDArray

from av2t_core.limits import RLE_BYTES

CHANNELS = 4
WORD = 8
RUN_SIZES = np.array([3, 4, 8, 16])  # bits, so a run holds at most 8, 16, 256 or 65536 values
HEADER = "{count:032b}" + f"{WORD - 1:05b}" + "".join(f"{size - 1:04b}" for size in RUN_SIZES)
OPAQUE = 127
"""The edges of what a person has drawn are smoothed: a pixel belongs to the mask if its alpha is above."""


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """(H, W) → the bytes of the `rle` of a brush region; True becomes 255, for the page reads alpha."""
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    whole = np.diff(ends, prepend=0) * CHANNELS
    # A run has at most 65536 values; what a long one leaves over comes last.
    longest = 1 << RUN_SIZES[-1]
    pieces = -(-whole // longest)
    lengths = np.full(pieces.sum(), longest)
    lengths[np.cumsum(pieces) - 1] = whole - (pieces - 1) * longest

    index = np.searchsorted(1 << RUN_SIZES, lengths)
    size = RUN_SIZES[index]
    # One code word for each run, at most 1 + 2 + 16 + 8 = 27 bits.
    words = (((0b100 | index) << size | (lengths - 1)) << WORD) | np.where(np.repeat(flat[ends - 1], pieces), 255, 0)
    widths = 3 + size + WORD
    position = np.arange(widths.max())
    bits = (words[:, None] >> np.maximum(widths[:, None] - 1 - position, 0)) & 1  # (runs, 27)
    body = bits[position < widths[:, None]]

    header = [int(bit) for bit in HEADER.format(count=flat.size * CHANNELS)]
    return list(np.packbits(np.concatenate([header, body]).astype(np.uint8)).tolist())


def decode(rle: object, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The `rle` of a brush region → its mask, of this height and width. ValueError says what is wrong with it."""
    data = _bytes(rle)
    values = shape[0] * shape[1] * CHANNELS
    at, lengths, same = _tokens(data, values)
    # A run has one value, and of the others each has its own.
    pieces = np.where(same, 1, lengths)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    bit = np.repeat(at, pieces) + WORD * within
    first = bit >> 3
    word = (data[first].astype(np.uint16) << 8 | data[first + 1]) >> (8 - (bit & 7)) & 0xFF
    flat = np.repeat(word > OPAQUE, np.repeat(np.where(same, lengths, 1), pieces))
    return flat.reshape(*shape, CHANNELS)[..., CHANNELS - 1].copy()


def _bytes(rle: object) -> NDArray[np.uint8]:
    """With some zeros behind them, so that the last bits can be read as any others."""
    if isinstance(rle, list) and len(rle) > RLE_BYTES:
        raise ValueError(f"its rle has {len(rle):,} bytes, and at most {RLE_BYTES:,} can be used")
    try:
        data = np.asarray(rle)
    except ValueError:  # lists of different lengths within it
        data = np.zeros(0)
    if data.dtype.kind not in "iu" or data.ndim != 1 or data.min() < 0 or data.max() > 255:
        raise ValueError("its rle is not a list of bytes")
    return np.append(data, [0] * 8).astype(np.uint8)


def _tokens(data: NDArray[np.uint8], values: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Of all runs and rows of single values: at which bit its values begin, how many there are, whether it is a run."""
    packed = data.tobytes()

    def bits(at: int, count: int) -> int:
        """Up to 25, so a token's head, which has 19 at most."""
        return int.from_bytes(packed[at >> 3 : (at >> 3) + 4]) >> (32 - (at & 7) - count) & ((1 << count) - 1)

    end = 8 * (len(data) - 8)
    head = len(HEADER.format(count=0))
    if end < head:
        raise ValueError("its rle is cut off")
    if (counted := int.from_bytes(packed[:4])) != values:
        raise ValueError(f"its rle is of {counted} values, and its size asks for {values}")
    if (word := bits(32, 5) + 1) != WORD:
        raise ValueError(f"its rle has words of {word} bits, and {WORD} are meant")
    sizes = [bits(37 + 4 * i, 4) + 1 for i in range(4)]

    begins, lengths, same = [], [], []
    at, left = head, values
    while left > 0:  # one after the other, for where a token begins is known only from the one before
        if at >= end:
            raise ValueError("its rle is cut off")
        kind = bits(at, 3)
        size = sizes[kind & 3]
        length = bits(at + 3, size) + 1
        at += 3 + size
        begins.append(at)
        lengths.append(length)
        same.append(kind >= 4)
        at += WORD if kind >= 4 else WORD * length
        left -= length
    if at > end:
        raise ValueError("its rle is cut off")
    if left < 0:
        raise ValueError("its rle does not end where it should")
    return np.array(begins), np.array(lengths), np.array(same)
