"""Modules whose weights are yet to come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode


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
