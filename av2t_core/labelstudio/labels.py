"""What the model calls a thing → the label of the project that a region gets."""

from collections.abc import Sequence
from dataclasses import dataclass

from av2t_core.labelstudio.config import Label


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str  # one of the project's labels
    sure: bool = True  # False: a label had to be given, and this one says nothing about the thing
    remark: str | None = None


def choose_label(detected: str | None, labels: Sequence[Label]) -> Choice:
    """By name, then by `predicted_values`, both without regard to case; else the only label there is; else the first.

    `labels` is never empty, and no other label is ever returned.
    """
    if detected is not None:
        wanted = detected.strip().casefold()
        for label in labels:
            if label.name.strip().casefold() == wanted:
                return Choice(name=label.name)
        for label in labels:
            if wanted in (value.casefold() for value in label.predicted_values):
                return Choice(name=label.name)
    if len(labels) == 1:
        return Choice(name=labels[0].name)
    if detected is None:
        return Choice(name=labels[0].name, sure=False, remark="label not known")
    return Choice(name=labels[0].name, sure=False, remark=f'heard "{detected}", which is none of the labels')
