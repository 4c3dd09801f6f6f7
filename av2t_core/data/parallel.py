"""The same task for many numbers, by several processes."""

import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar, cast

import cv2

T = TypeVar("T")

_task: Callable[[int], object]


def in_order(task: Callable[[int], T], count: int, jobs: int, done: Callable[[], object]) -> list[T]:
    """task(0) to task(count - 1), `jobs` at a time; `done` is called after each. `task` goes to each process once."""
    results = []
    if jobs == 1:
        for index in range(count):
            results.append(task(index))
            done()
        return results
    # Not forked: the parent may hold threads.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare, initargs=(task,))
    try:
        for result in pool.map(_run, range(count)):
            results.append(cast(T, result))
            done()
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _prepare(task: Callable[[int], object]) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to tell of
    cv2.setNumThreads(1)


def _run(index: int) -> object:
    return _task(index)
