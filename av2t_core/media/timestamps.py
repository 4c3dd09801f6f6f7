"""When each picture of a stream is shown: by the one of its two timestamps that can be trusted."""

from collections import deque
from collections.abc import Iterator

import av

_AHEAD = 4  # pictures that are looked at before the first one's time is said: reordering shows by then


class Timestamps:
    """Of one stream, whose pictures are given in the order of presentation.

    A picture has a presentation timestamp (PTS), and a decoding one (DTS): that of the packet that released it. Some
    containers, such as avi and asf, have one timestamp only, which counts in the order of decoding. Where B-frames
    make that another order, the PTS that are guessed from it step back. The one that does so less often is taken, by
    the idea of FFmpeg's best-effort timestamps.
    """

    def __init__(self) -> None:
        self._pts: int | None = None
        self._dts: int | None = None
        self._pts_faults = self._dts_faults = 0

    def timed(self, pictures: Iterator[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, float | None]]:
        """Each picture with its time in seconds; None: it follows its predecessor."""
        ahead: deque[av.VideoFrame] = deque()
        for picture in pictures:
            self._note(picture)
            ahead.append(picture)
            if len(ahead) > _AHEAD:
                yield ahead[0], self._time(ahead.popleft())
        for picture in ahead:
            yield picture, self._time(picture)

    def _note(self, picture: av.VideoFrame) -> None:
        pts, dts = picture.pts, picture.dts
        if pts is not None:
            self._pts_faults += self._pts is not None and pts <= self._pts
            self._dts_faults += dts is None  # at the end, when no packet releases a picture any more
            self._pts = pts
        if dts is not None:
            self._dts_faults += self._dts is not None and dts <= self._dts
            self._dts = dts

    def _time(self, picture: av.VideoFrame) -> float | None:
        if self._pts_faults > self._dts_faults:
            ticks = picture.dts
        else:
            ticks = picture.dts if picture.pts is None else picture.pts
        return None if ticks is None or picture.time_base is None else float(ticks * picture.time_base)
