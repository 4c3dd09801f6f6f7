"""Weights on their way into a module: where they are published, and under which names."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from av2t_core.errors import misfit


@dataclass(frozen=True, kw_only=True)
class Published:
    """One set of weights on the model hub.

    `kind`: what its state dict is called; `marks`: what names in it begin with, each at least once, by which it is
    recognised. `names`: patterns of its files' names, the best first; all that match one pattern are the shards of one
    state dict if they are numbered, else rivals.
    """

    kind: str
    what: str
    part: str  # what its frozen tensors are called among the model versions' parts
    repository: str
    names: tuple[str, ...]
    example: str
    marks: tuple[str, ...]
    beside: tuple["Published", ...] = ()  # what goes into the same part from other repositories

    @property
    def sources(self) -> "tuple[Published, ...]":
        """It, and what goes with it."""
        return self, *self.beside

    @property
    def where(self) -> str:
        """For a person who has to find it: the files' names, and their repositories."""
        return " and ".join(f"{each.example} of {each.repository}" for each in self.sources)

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repository}"


NOTHING = re.compile("(?!)")
"""Matches no key."""


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from: the published key, and which of how many equal parts along its first dimension."""

    key: str
    part: int = 0
    parts: int = 1


def translate(
    what: str,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    source: Callable[[str], Source],
    unread: re.Pattern[str],
) -> dict[str, Tensor]:
    """The tensors of `own`, taken from `state`, none copied; `own`, `what`'s, may be on the meta device.

    `unread` matches, from their beginning, the published keys that nobody here has a use for.
    WeightsError names every key that is missing, unknown or of another shape.
    """
    sources = {key: source(key) for key in own}
    problems = {f"missing {origin.key}" for origin in sources.values() if origin.key not in state}
    known = {origin.key for origin in sources.values()}
    problems |= {f"unknown {key}" for key in state if key not in known and not unread.match(key)}
    for key, origin in sources.items():
        expected = tuple(own[key].shape)
        if origin.parts > 1:
            expected = (expected[0] * origin.parts, *expected[1:])
        if (tensor := state.get(origin.key)) is not None and tensor.shape != expected:
            problems.add(f"{origin.key} is {tuple(tensor.shape)}, the {what} has {expected}")
    if problems:
        raise misfit(what, problems)
    return {
        key: state[origin.key].chunk(origin.parts)[origin.part] if origin.parts > 1 else state[origin.key]
        for key, origin in sources.items()
    }


@contextmanager
def empty_weights() -> Iterator[None]:
    """Within it, parameters are made on the meta device: that takes no memory and no time."""
    with init_empty_weights(), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves out what modules draw their weights by: on the meta device that draws nothing, but imports a compiler,
    which takes seconds and 150 MB.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, init.normal_):
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
