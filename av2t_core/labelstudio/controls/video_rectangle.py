from collections import defaultdict
from collections.abc import Iterator, Sequence

from av2t_core.labelstudio.controls import Seen, Size, VideoTag, percent
from av2t_core.labelstudio.tracks import Clock, Sighting, marks


class VideoRectangle(VideoTag):
    """One track of boxes for each object."""

    kind = "track"
    labels_beside = True

    def write(self, sightings: Sequence[Sighting], clock: Clock, size: Size) -> Iterator[Seen]:
        objects = defaultdict(list)
        for sighting in sightings:
            objects[sighting.number].append(sighting)
        for seen in objects.values():
            sequence = [
                {
                    "frame": mark.frame,
                    "time": round(mark.frame / clock.rate, 3),
                    "enabled": not mark.last,
                    "rotation": 0,
                    **percent(mark.box, size),
                }
                for mark in marks(seen, clock)
            ]
            yield seen, {"framesCount": clock.count, "duration": clock.duration, "sequence": sequence}
