"""Which failure of a job is final and which can pass, and how long to wait before the next try."""

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rq.timeouts import BaseTimeoutException

from av2t.remedies import told
from av2t_core.errors import AV2TError, DiskFullError, MemoryShortError, StoreAwayError
from av2t_core.text import redact

FIRST_DELAY = 5  # seconds; doubled with every further attempt
LONGEST_DELAY = 300
Answer = TypeVar("Answer")
DOUBTS = 3
"""Further tries, over a minute, of what a server that may not be itself refuses."""


class TransientError(Exception):
    """Something outside does not answer now and may later; the message is one sentence for the person who waits."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after  # seconds, if the other side said so


class DoubtfulError(TransientError):
    """A server says no, and nobody can tell whether a proxy speaks for it: it is believed when it is said again."""


class GoneError(Exception):
    """The task or project was deleted in Label Studio: nothing is left to do, and nobody waits for it."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    sentence: str  # for the status page
    final: bool
    retry_after: float | None = None  # seconds
    doubtful: bool = False  # it is final only after DOUBTS further tries that ended so
    expected: bool = True  # False: a defect of ours, whose traceback belongs into the log


def judge(error: BaseException, secret: str, *, doubts: int = 0, timeout: float | None = None) -> Verdict:
    """What to do about a job's failure, in words that do not repeat `secret`.

    `doubts`: its earlier tries that ended with a DoubtfulError; `timeout`: the seconds that it had.
    """
    match error:
        case DiskFullError() | MemoryShortError() | StoreAwayError():
            return Verdict(sentence=told(error), final=False)
        case MemoryError():
            return Verdict(sentence="The worker's machine has no memory left for this task.", final=False)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Verdict(sentence="The disk of the worker's machine is full; make room in its TMPDIR.", final=False)
        case AV2TError():
            return Verdict(sentence=told(error), final=True)
        case GoneError():
            return Verdict(sentence=f"There is no {error} in Label Studio any more.", final=True)
        case BaseTimeoutException():
            return Verdict(sentence=f"The job took longer than {timeout} s and was ended.", final=True)
        case DoubtfulError():
            return Verdict(sentence=str(error), final=doubts >= DOUBTS, doubtful=True)
        case TransientError():
            return Verdict(sentence=str(error), final=False, retry_after=error.retry_after)
        case _:
            sentence = redact(f"Unexpected {type(error).__name__}: {error}", secret)
            return Verdict(sentence=sentence, final=False, expected=False)


def delay(attempt: int, retry_after: float | None = None, *, jitter: float | None = None) -> int:
    """Whole seconds to wait before the next try; `attempt` counts from 0. Jitter (0..1) keeps tasks from coming back
    all at once after an outage."""
    if retry_after is not None:
        return round(min(max(retry_after, 1), LONGEST_DELAY))
    spread = random.random() if jitter is None else jitter  # noqa: S311
    return round(min(FIRST_DELAY << attempt, LONGEST_DELAY) * (1 + spread / 2))


def wait_for(
    ask: Callable[[], Answer],
    away: type[Exception] | tuple[type[Exception], ...],
    *,
    longest: float,
    report: Callable[[Exception, float], None],
    pause: Callable[[float], None] = time.sleep,
    patience: float = float("inf"),
) -> Answer:
    """What `ask` returns once it no longer raises `away`; it is asked again after 1 s, 2 s, 4 s, up to `longest`.

    `report` gets each failure, with the seconds until the next try. The failure is raised after `patience` seconds.
    """
    until, wait = time.monotonic() + patience, 1.0
    while True:
        try:
            return ask()
        except away as error:
            if time.monotonic() > until:
                raise
            seconds = max(wait, min(getattr(error, "retry_after", None) or 0, longest))
            report(error, seconds)
            pause(seconds)
            wait = min(2 * wait, longest)
