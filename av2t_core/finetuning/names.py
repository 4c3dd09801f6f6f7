"""What people call things: lines on the embeddings of sounds and of cut-out things, fitted to their labels.

For models that know their own names alone and read none: of a project about things that they have never met, every mask
would otherwise come with a label that says nothing.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from av2t_core.evaluation.logistic import fit_lines
from av2t_core.training.replay import Replay

LEAST = 3
"""Of so many keyframes at least a name is learnt."""

_DECAY = 0.0002  # few examples leave much open

Labelled = Sequence[tuple[Tensor, frozenset[str]]]
"""Embeddings (width,), and what of that which people labelled is to be heard, or seen, in each."""


def learnable(names: Sequence[str], sounds: Labelled) -> tuple[str, ...]:
    """Those of the names that are heard often enough, in their order."""
    counts = Counter(name for _, heard in sounds for name in heard)
    return tuple(name for name in names if counts[name] >= LEAST)


def fit_names(names: Sequence[str], sounds: Labelled, things: Labelled, replay: Replay | None) -> dict[str, Tensor]:
    """LearnedNamer's tensors. What the model learnt before is none of the names. At least one name."""
    none: frozenset[str] = frozenset()
    known_sounds = [(each, none) for each in replay.a] if replay is not None else []
    known_things = [(each, none) for each in replay.v] if replay is not None else []
    hearing, seeing = _lines(names, [*sounds, *known_sounds]), _lines(names, [*things, *known_things])
    return {
        "hearing.weight": hearing[:, :-1].contiguous(),
        "hearing.bias": hearing[:, -1].contiguous(),
        "seeing.weight": seeing[:, :-1].contiguous(),
        "seeing.bias": seeing[:, -1].contiguous(),
    }


def _lines(names: Sequence[str], examples: Labelled) -> Tensor:
    """A line for each name, (names, width + 1), in which a name's examples weigh as much as all others."""
    x = F.normalize(torch.stack([embedding for embedding, _ in examples]).double(), dim=-1)
    y = torch.tensor([[name in said for name in names] for _, said in examples], dtype=x.dtype)
    weight = torch.where(y > 0, 0.5 / y.sum(dim=0).clamp(min=1), 0.5 / (1 - y).sum(dim=0).clamp(min=1))
    return fit_lines(x, y, _DECAY, weight).float()
