"""What the model calls a thing → the label of the project that a region gets."""

from collections.abc import Sequence
from dataclasses import dataclass

from av2t_core.labelstudio.config import Label


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str  # one of the project's labels
    sure: bool = True  # False: a label had to be given, and this one says nothing about the thing
    remark: str | None = None


def choose_label(detected: Sequence[str], labels: Sequence[Label]) -> Choice:
    """The first of the names that is a label's own or one of its `predicted_values`, both without regard to case.

    If none is, the only label there is, else the first of them. `labels` is never empty, and no other label is ever
    returned. `detected`: what the thing may be called, the likeliest first.
    """
    for wanted in (name.strip().casefold() for name in detected):
        for label in labels:
            if label.name.strip().casefold() == wanted:
                return Choice(name=label.name)
        for label in labels:
            if wanted in (value.casefold() for value in label.predicted_values):
                return Choice(name=label.name)
    if len(labels) == 1:
        return Choice(name=labels[0].name)
    if not detected:
        return Choice(name=labels[0].name, sure=False, remark="label not known")
    return Choice(name=labels[0].name, sure=False, remark=f'heard "{detected[0]}", which is none of the labels')
