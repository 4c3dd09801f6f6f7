"""Published state dicts to an encoder's own: every tensor that it needs, under its names, and nothing unexplained."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from av2t_core.errors import misfit


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from: the published key, and which of how many equal parts along its first dimension."""

    key: str
    part: int = 0
    parts: int = 1


def translate(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: Callable[[str], Source], unread: re.Pattern[str]
) -> dict[str, Tensor]:
    """The tensors of `own`, taken from `state`, none copied; `own` may be on the meta device.

    `unread` matches, from their beginning, the published keys that the encoder has no use for.
    WeightsError names every key that is missing, unknown or of another shape.
    """
    sources = {key: source(key) for key in own}
    problems = {f"missing {origin.key}" for origin in sources.values() if origin.key not in state}
    known = {origin.key for origin in sources.values()}
    problems |= {f"unknown {key}" for key in state if key not in known and not unread.match(key)}
    translated = {}
    for key, origin in sources.items():
        if origin.key not in state:
            continue
        tensor = state[origin.key]
        expected = tuple(own[key].shape)
        if origin.parts > 1:
            expected = (expected[0] * origin.parts, *expected[1:])
        if tensor.shape == expected:
            translated[key] = tensor.chunk(origin.parts)[origin.part] if origin.parts > 1 else tensor
        else:
            problems.add(f"{origin.key} is {tuple(tensor.shape)}, the encoder has {expected}")
    if problems:
        raise misfit("encoder", problems)
    return translated
