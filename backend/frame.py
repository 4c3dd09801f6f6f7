"""label-studio-ml's Flask server and model base: the frame that Label Studio talks to, imported with care.

Its `model` module imports torch wherever torch is installed, 12 s and 550 MB for a process that needs none of it, and
goes on with the standard library's multiprocessing where it is not. So torch is out of sight while it is imported.

Its `exception_handler` answers every mistake with status 500 and a traceback, and prints it. The views are wrapped with
it at import time, so it is replaced before that: errors reach the handlers of `backend.app` instead.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ABSENT = object()


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Within the block `import name` fails as if the package were not installed; afterwards all is as before."""
    before = sys.modules.get(name, _ABSENT)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        if before is _ABSENT:
            del sys.modules[name]
        else:
            sys.modules[name] = before  # type: ignore[assignment]


# label_studio_tools has invalid escapes in its strings, which Python warns about when it first compiles them.
with _hidden("torch"), warnings.catch_warnings(action="ignore"):
    from label_studio_ml import exceptions

    exceptions.exception_handler = lambda view: view

    from label_studio_ml import api
    from label_studio_ml.model import LabelStudioMLBase

__all__ = ["LabelStudioMLBase", "api"]
