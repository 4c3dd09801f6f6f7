"""Whether predicted objects go under the right names, by the table of `av2t_core.words`."""

import json
from pathlib import Path

from av2t_core.data.avsbench import DataError, LabelledClip
from av2t_core.prediction.folder import NAME
from av2t_core.words.things import match


def names_right(directory: Path, clip: LabelledClip) -> tuple[bool, ...]:
    """Of each object that DIRECTORY/VIDEO/prediction.json has where something in view sounds: whether its label is
    right.

    It is if it may mean one of the things that sound there: a parrot may be called a bird. An object without a label is
    not right. Empty where the data set has no names, or the folder holds masks alone. DataError: it cannot be read.
    """
    path = directory / clip.video / NAME
    if not path.is_file():
        return ()
    try:
        keyframes = json.loads(path.read_text(encoding="utf-8"))["keyframes"]
        return tuple(
            _right(each["label"], clip.names[index])
            for index in clip.labelled
            if clip.names.get(index)
            for each in keyframes[index]["objects"]
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} cannot be read as a prediction of {clip.video} ({error!r}); predict it again"
        ) from None


def _right(label: str | None, sounding: frozenset[str]) -> bool:
    if label is None:
        return False
    return label in sounding or any(thing.name in sounding for thing in match([label])[label])
