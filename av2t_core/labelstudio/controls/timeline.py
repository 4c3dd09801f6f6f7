from collections.abc import Iterator, Sequence

from av2t_core.labelstudio.controls import Seen, Size, VideoTag
from av2t_core.labelstudio.tracks import Clock, Sighting, runs


class TimelineLabels(VideoTag):
    """One range for each time that something with the label sounds."""

    kind = "ranges"

    def write(self, sightings: Sequence[Sighting], clock: Clock, size: Size) -> Iterator[Seen]:
        for run in runs(sightings):
            start, end = clock.window(run[0].window, run[-1].window)
            yield run, {"ranges": [{"start": start, "end": end}]}
