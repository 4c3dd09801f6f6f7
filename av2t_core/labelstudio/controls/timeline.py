from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from av2t_core.labelstudio.controls import Size, VideoTag

if TYPE_CHECKING:
    from av2t_core.labelstudio.tracks import Clock, Sighting


class TimelineLabels(VideoTag):
    """One range for each time that something with the label sounds."""

    kind = "ranges"

    def write(
        self, sightings: "Sequence[Sighting]", clock: "Clock", size: Size
    ) -> "Iterator[tuple[Sequence[Sighting], dict[str, Any]]]":
        from av2t_core.labelstudio.tracks import runs

        for run in runs(sightings):
            start, end = clock.window(run[0].window, run[-1].window)
            yield run, {"ranges": [{"start": start, "end": end}]}
