"""What the clips of a data set are heard with: their own sound, another clip's, or none.

A model that answers alike to all three does not listen.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from av2t_core.data.avsbench import DataError, LabelledClip, read_frame, read_sounds
from av2t_core.media.clip import KEYFRAME_OFFSET, Keyframe, Window

Hearing = Literal["own", "shuffled", "muted"]


def windows(clips: Sequence[LabelledClip], hearing: Hearing, seed: int) -> Iterator[Window]:
    """Of every frame that has a mask, clip after clip. `muted`: digital silence at the recording's rate.

    DataError: a file cannot be read; or shuffled, and there is but one clip.
    """
    others = shuffled(clips, seed) if hearing == "shuffled" else clips
    for clip, heard in zip(clips, others, strict=True):
        sounds = read_sounds(heard.sound, len(clip.frames))
        for second in clip.labelled:
            sound = sounds[second]
            yield Window(
                keyframe=Keyframe(index=second, frame=second, time=second + KEYFRAME_OFFSET),
                image=read_frame(clip.frames[second]),
                sound=replace(sound, samples=np.zeros_like(sound.samples)) if hearing == "muted" else sound,
            )


def shuffled(clips: Sequence[LabelledClip], seed: int) -> list[LabelledClip]:
    """For each clip another one, and each one once; of another category as far as the largest category leaves any.

    DataError: there is but one clip.
    """
    if len(clips) < 2:
        raise DataError(f"sounds can be shuffled among two clips or more, and {clips[0].video} is the only one")
    categories: dict[str, list[int]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(clips)).tolist():
        categories[clips[index].category].append(index)
    ring = [index for category in categories.values() for index in category]
    # On a ring of categories, one after the other, a step as long as the longest leads out of each of them.
    longest = max(map(len, categories.values()))
    step = longest if longest < len(ring) else 1
    others = {index: clips[ring[(place + step) % len(ring)]] for place, index in enumerate(ring)}
    return [others[index] for index in range(len(clips))]
