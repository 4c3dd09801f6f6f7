"""Names of objects: from a model that knows its own names, or from one that reads those that it is given."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class Hearing(Protocol):
    """An audio encoder that names what it hears."""

    labels: tuple[str, ...]

    def silence(self, a: Tensor) -> Tensor:
        """(B, audio_width) to the probability (B,) that nothing sounds which could be in the picture."""

    def heard(self, a: Tensor) -> Tensor:
        """(B, audio_width) to the probability (B, labels) that each label sounds."""


@runtime_checkable
class Sight(Protocol):
    """An image encoder that names what it sees."""

    labels: tuple[str, ...]

    def seen(self, v: Tensor) -> Tensor:
        """(B, image_width) to the probability (B, labels) that each label is in the picture."""


class Namer(Hearing, Sight, Protocol):
    """Names what is heard and what is seen."""


@runtime_checkable
class Reader(Protocol):
    """An encoder with a text's half."""

    @property
    def slope(self) -> float:
        """Of the cosines between embeddings and texts, to log-odds."""

    def read(self, names: Sequence[str]) -> Tensor:
        """What objects of these names look or sound like: (names, width), of unit length."""


class EncodersNamer:
    """Each embedding is named by the encoder that it is of; both know the same names."""

    def __init__(self, *, sight: Sight, hearing: Hearing) -> None:
        assert sight.labels == hearing.labels
        self.labels = hearing.labels
        self.silence, self.heard, self.seen = hearing.silence, hearing.heard, sight.seen


class NoNames:
    """Knows none. What is silence is said by who finds things by names of its own."""

    labels: tuple[str, ...] = ()

    def __init__(self, silence: Callable[[Tensor], Tensor]) -> None:
        self.silence = silence

    def heard(self, a: Tensor) -> Tensor:
        return a.new_zeros(len(a), 0)

    def seen(self, v: Tensor) -> Tensor:
        return v.new_zeros(len(v), 0)


class ReadNamer:
    """Chooses among names, as CLIP and MS-CLAP classify without training: of all the names one is right.

    What is heard is shared among them, too, though several things may sound: it was learnt as a choice between texts,
    and its cosines have no zero below which a name is improbable.
    """

    def __init__(self, names: Sequence[str], *, sight: Reader, hearing: Reader | None) -> None:
        """One name at least. Without `hearing`, by what is seen alone."""
        self.labels = tuple(names)
        self._seen = sight.slope * sight.read(self.labels)
        self._heard = hearing.slope * hearing.read(self.labels) if hearing else None

    def silence(self, a: Tensor) -> Tensor:
        return torch.zeros(len(a), device=a.device)

    def heard(self, a: Tensor) -> Tensor:
        if self._heard is None:
            return torch.ones(len(a), len(self.labels), device=a.device)
        return (F.normalize(a, dim=-1) @ self._heard.T).softmax(dim=-1)

    def seen(self, v: Tensor) -> Tensor:
        return (F.normalize(v, dim=-1) @ self._seen.T).softmax(dim=-1)


class LearnedNamer(nn.Module):
    """Names that were learnt from what people labelled, beside those that a model knows of itself.

    `weight` and `bias` of each half are lines on embeddings of unit length that give log-odds.
    """

    def __init__(self, known: Namer, names: Sequence[str], *, audio_width: int, image_width: int) -> None:
        super().__init__()
        self.labels = (*known.labels, *names)
        self.hearing = nn.Linear(audio_width, len(names))
        self.seeing = nn.Linear(image_width, len(names))
        self._known = (known,)  # not by itself, for what it consists of belongs to other modules

    @property
    def known(self) -> Namer:
        """The names that the model knows of itself."""
        return self._known[0]

    def silence(self, a: Tensor) -> Tensor:
        """What is heard by one of the learnt names is not silence, whatever else it is taken for."""
        return torch.minimum(self.known.silence(a), 1 - self._heard(a).amax(dim=-1))

    def heard(self, a: Tensor) -> Tensor:
        return torch.cat([self.known.heard(a), self._heard(a)], dim=-1)

    def seen(self, v: Tensor) -> Tensor:
        return torch.cat([self.known.seen(v), self.seeing(F.normalize(v, dim=-1)).sigmoid()], dim=-1)

    def _heard(self, a: Tensor) -> Tensor:
        return self.hearing(F.normalize(a, dim=-1)).sigmoid()  # type: ignore[no-any-return]
