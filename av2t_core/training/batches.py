"""From the clips of a data set to what the model learns from: their order, their shares, and their tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.data.avsbench import LabelledClip, read_frame, read_sounds, read_target
from av2t_core.media.sound import Sound
from av2t_core.model.inputs import to_device
from av2t_core.training.frozen import Frozen, FrozenResults
from av2t_core.training.paper import Inputs

Part = tuple[LabelledClip, ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process takes of a batch: parts that go through the model one after the other, one or more.

    `counts`: False if it has no clip of its own and only takes part. `frames`: of the whole batch, of all processes.
    """

    parts: tuple[Part, ...]
    counts: bool
    frames: int


@dataclass(frozen=True, kw_only=True)
class Read:
    """A clip's labelled frames as they come from disk. `sounds`: their seconds, where `frozen` is not there."""

    clip: LabelledClip
    images: list[NDArray[np.uint8]]
    targets: list[NDArray[np.bool_]]
    sounds: list[Sound]
    frozen: Frozen | None


def batches(
    clips: Sequence[LabelledClip], epoch: int, *, size: int, seed: int, process: int, processes: int, parts: int
) -> list[Share]:
    """This process's shares of an epoch's batches, `size` clips each, in an order that (seed, epoch) draws."""
    order = np.random.default_rng([seed, epoch]).permutation(len(clips)).tolist()
    shares = []
    for first in range(0, len(order), size):
        batch = [clips[index] for index in order[first : first + size]]
        own = batch[process::processes] or batch[:1]
        count = min(parts, len(own))  # of about the same size
        shares.append(
            Share(
                parts=tuple(tuple(own[index::count]) for index in range(count)),
                counts=process < len(batch),
                frames=sum(len(clip.labelled) for clip in batch),
            )
        )
    return shares


def read(clip: LabelledClip, results: FrozenResults) -> Read:
    """DataError: a file of it is missing or damaged."""
    frozen = results.stored(clip)
    heard = [] if frozen else read_sounds(clip.sound, max(clip.labelled) + 1)
    return Read(
        clip=clip,
        images=[read_frame(clip.frames[index]) for index in clip.labelled],
        targets=[read_target(mask) for mask in clip.masks if mask is not None],
        sounds=[] if frozen else [heard[index] for index in clip.labelled],
        frozen=frozen,
    )


@torch.no_grad()
def inputs(reads: Sequence[Read], results: FrozenResults, *, counts: bool = True) -> Inputs:
    """What was read, on the model's device, with what is frozen."""
    loaded, segmenter = results.loaded, results.loaded.model.segmenter
    frozen = [one.frozen or results.compute(one.clip, one.images, one.sounds) for one in reads]
    images = to_device([image for one in reads for image in one.images], loaded.device)
    targets = np.stack([target for one in reads for target in one.targets])
    levels = list(zip(*(one.features for one in frozen if one.features is not None), strict=True))

    def together(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.to(loaded.device, non_blocking=True) for tensor in tensors])

    return Inputs(
        images=segmenter.inputs(segmenter.squares(images, encoded=bool(levels))),
        v=together(one.v for one in frozen),
        a=together(one.a for one in frozen),
        features=[together(level) for level in levels] or None,
        target=torch.from_numpy(targets).to(loaded.device).float(),
        names=tuple(one.clip.video for one in reads for _ in one.images),
        counts=counts,
    )
