"""How many samples the tables of an mp4 or mov claim: FFmpeg makes an entry of each while it opens the file.

A table of samples that are all of one size is twenty bytes, whatever their number, so a file of some kilobytes takes
gigabytes. FFmpeg looks for tables in many places; here any bytes of a header that could be one count.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from av2t_core.errors import MediaError
from av2t_core.limits import CLIP_SAMPLES, MP4_BOXES, MP4_HEADER

_HEADERS = (b"moov", b"moof", b"trak")
_DISGUISED = (b"free", b"hoov")  # FFmpeg takes them for moov if they look like one inside
_TABLE = re.compile(rb"(stsz|stz2)|trun")
_HANDLER = re.compile(rb"hdlr.{8}(....)", re.DOTALL)
_TIMES = re.compile(rb"stts.{4}(.{4}).{4}(.{4})", re.DOTALL)
_ONE = struct.pack(">I", 1)


def check_tables(path: Path) -> None:
    """MediaError: they claim more than a clip has. A file that is no mp4 has none."""
    samples = 0
    with path.open("rb") as file:
        for header in _headers(file, path.stat().st_size):
            if len(header) > MP4_HEADER:
                raise MediaError(
                    f"{path.name}: its tables have more than {MP4_HEADER:,} bytes; cut it into shorter clips"
                )
            samples += _samples(header)
            if samples > CLIP_SAMPLES:
                raise MediaError(
                    f"{path.name}: its tables claim {samples:,} frames and pieces of sound, and at most"
                    f" {CLIP_SAMPLES:,} can be used; the file is damaged, or to be cut into shorter clips"
                )


def _headers(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The content of the boxes that hold tables, up to a byte more than MP4_HEADER."""
    at = 0
    for _ in range(MP4_BOXES):
        if at + 8 > size:
            return
        file.seek(at)
        head = file.read(24)
        length, kind, start = int.from_bytes(head[:4]), head[4:8], 8
        if length == 1:
            length, start = int.from_bytes(head[8:16]), 16
        elif length == 0:  # to the end
            length = size - at
        if length < start:
            return
        if kind in _HEADERS or (kind in _DISGUISED and head[start + 4 : start + 8] in (b"mvhd", b"cmov")):
            file.seek(at + start)
            content = file.read(min(length - start, MP4_HEADER + 1))
            yield content
            if (packed := content.find(b"cmvd")) >= 0:  # as QuickTime once compressed it
                try:
                    yield zlib.decompressobj().decompress(content[packed + 8 :], MP4_HEADER + 1)
                except zlib.error:
                    return
        at += length
    raise MediaError(f"{Path(file.name).name}: it is in more than {MP4_BOXES:,} pieces; convert it anew")


def _samples(header: bytes) -> int:
    count = 0
    tracks = [found.start() for found in re.finditer(b"trak", header)]
    for start, end in zip([0, *tracks], [*tracks, len(header)], strict=True):
        track = header[start:end]
        for table in _TABLE.finditer(track):
            # A version and flags come first, and in a table of sizes the one that all have.
            at = table.end() + (8 if table[1] else 4)
            if not (table[1] and _is_pcm(track)):
                count += int.from_bytes(track[at : at + 4])
    return count


def _is_pcm(track: bytes) -> bool:
    """Sound each of whose samples is one moment: FFmpeg makes an entry of a whole chunk of it."""
    handlers, times = set(_HANDLER.findall(track)), _TIMES.findall(track)
    return b"soun" in handlers and b"vide" not in handlers and times == [(_ONE, _ONE)]
