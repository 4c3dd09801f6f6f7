"""Reading ahead: the next items are made on a thread of their own while the last one is worked on."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def read_ahead(items: Iterator[T], count: int = 1) -> Generator[T]:
    """The same items, up to `count` (1 or more) of which are made before they are asked for.

    All of the source runs on the one thread, its closing too; it should spend its time where Python's global lock is
    free, as decoding does. What it raises comes out in the place of its item. Closing this generator, which also
    happens when its consumer fails or is interrupted, waits for the item that is being made, closes the source if that
    is a generator, and ends the thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        pending: deque[Future[T]] = deque()
        try:
            pending.extend(thread.submit(next, items, _END) for _ in range(count))
            while (item := pending.popleft().result()) is not _END:
                pending.append(thread.submit(next, items, _END))
                yield item
        finally:
            for future in pending:
                future.cancel()
            close: Callable[[], None] | None = getattr(items, "close", None)
            # At the end of the interpreter the thread is gone already, and closing is the garbage collector's.
            if close is not None and not sys.is_finalizing():
                thread.submit(close).result()
