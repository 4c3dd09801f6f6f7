"""A decoded picture → RGB as browsers display it."""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace, ColorTrc, VideoReformatter
from numpy.typing import NDArray

from av2t_core.errors import MediaError
from av2t_core.media.hdr import HLG, PQ, to_srgb

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_MATRICES = {0, 1, 4, 5, 6, 7, 9}  # of AVColorSpace, those that swscale converts
_HIGH_DEFINITION = 720  # lines
_HDR = {PQ.value: PQ, HLG.value: HLG}


def _unnamed(kind: type[SideDataType], value: int) -> SideDataType:
    """A kind of side data that FFmpeg knows and PyAV does not, such as EXIF: without a name PyAV refuses all others."""
    member = object.__new__(kind)
    member.__dict__.update(_name_=f"UNNAMED_{value}", _value_=value)
    return member


setattr(SideDataType, "_missing_", classmethod(_unnamed))  # noqa: B010


class Display:
    """Shows the pictures of one clip. `name`: of its file, for errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reformatter = VideoReformatter()  # one for all pictures: each prepares tables of its own
        self._transfer: ColorTrc | None = None  # of HDR
        self._unknown_matrix: int | None = None

    def rgb(self, picture: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(H, W, 3), rotated and mirrored by the nearest of the eight ways. `size`: width and height before that.

        MediaError: its pixels are of a kind that cannot be shown.
        """
        image = self._shown(picture, size)
        (right, b), (c, down) = matrix = display_matrix(picture)
        if transposes(matrix):
            image, down, right = image.transpose(1, 0, 2), b, c
        return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])

    def _shown(self, picture: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
        transfer = _HDR.get(picture.color_trc)
        try:
            shown = self._reformatter.reformat(
                picture, *size, "rgb48le" if transfer else "rgb24", src_colorspace=self._matrix(picture, size[1])
            )
        except OSError:
            raise MediaError(
                f"{self._name}: its pixels have a format, {picture.format.name}, that cannot be shown; convert it to"
                " H.264 in an mp4"
            ) from None
        if transfer:
            self._transfer = transfer
            return to_srgb(shown.to_ndarray().astype(np.uint16, copy=False), transfer)
        return shown.to_ndarray().astype(np.uint8, copy=False)

    def _matrix(self, picture: av.VideoFrame, height: int) -> Colorspace | None:
        """By which its colours are coded; None: as it says."""
        if picture.colorspace in _MATRICES:
            return None
        if picture.colorspace != _UNSPECIFIED:
            self._unknown_matrix = picture.colorspace
        if picture.color_trc in _HDR:
            return Colorspace.BT2020
        # Players take untagged video for BT.709 from 720 lines on, FFmpeg for BT.601.
        return Colorspace.ITU709 if height >= _HIGH_DEFINITION else Colorspace.ITU601

    def remarks(self) -> Iterator[str]:
        """Sentences about what was converted or guessed."""
        if self._transfer is not None:
            name = "PQ" if self._transfer is PQ else "HLG"
            yield f"Its brightness is HDR ({name}): it is shown as on a screen without, as browsers do."
        if self._unknown_matrix is not None:
            yield f"Its colours are coded in a way (matrix {self._unknown_matrix}) that is not known: they are a guess."


def display_matrix(picture: av.VideoFrame) -> NDArray[np.int32]:
    """The upper left 2x2 of the display matrix: row (a, b), row (c, d) with x' = ax + cy, y' = bx + dy."""
    side_data: Any = picture.side_data
    data = side_data.get(SideDataType.DISPLAYMATRIX)
    return np.eye(2, dtype=np.int32) if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]


def transposes(matrix: NDArray[np.int32]) -> bool:
    """Whether the picture's x runs along the display's y."""
    return abs(int(matrix[0, 1])) > abs(int(matrix[0, 0]))
