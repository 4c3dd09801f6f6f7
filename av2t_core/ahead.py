"""Reading ahead: the next items are made on a thread of their own while the last one is worked on."""

from collections.abc import Generator, Iterator
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], count: int = 1) -> Generator[T]:
    """The same items, up to `count` (1 or more) of which are made before they are asked for.

    All of the source runs on the one thread, its closing too; it should spend its time where Python's global lock is
    free, as decoding does. What it raises comes out in the place of its item. Closing this generator, which also
    happens when its consumer fails or is interrupted, waits for the item that is being made, closes the source if that
    is a generator, and ends the thread.
    """
    # Of all queues this one alone may be used wherever the garbage collector happens to close a forgotten generator.
    wanted: SimpleQueue[None] = SimpleQueue()
    made: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()
    failure: list[BaseException] = []
    closing = False

    def work() -> None:
        wanted.get()
        while not closing:
            try:
                made.put((next(items),))
            except BaseException as error:  # StopIteration, too
                made.put(error)
            wanted.get()
        if isinstance(items, Generator):
            try:
                items.close()
            except BaseException as error:
                failure.append(error)

    # A daemon: an error that ends the interpreter keeps this generator alive, and nobody would end the thread.
    thread = Thread(target=work, name="read-ahead", daemon=True)
    try:
        thread.start()
        for _ in range(count):
            wanted.put(None)
        while not isinstance(item := made.get(), BaseException):
            wanted.put(None)
            yield item[0]
        if not isinstance(item, StopIteration):
            raise item
    finally:
        closing = True
        wanted.put(None)
        if thread.is_alive() and current_thread() is not thread:
            thread.join()
        if failure:
            raise failure.pop()
