import errno

import pytest
from rq.timeouts import JobTimeoutException

from av2t_core.errors import AV2TError, DiskFullError, MediaError, MemoryShortError, StoreAwayError
from av2t_core.text import redact
from worker.failures import DOUBTS, LONGEST_DELAY, DoubtfulError, GoneError, TransientError, Verdict, delay, judge

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoiYWNjZXNzIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize("error", [AV2TError("No."), MediaError("No.")])
def test_what_a_person_has_to_mend_is_final(error: Exception) -> None:
    assert judge(error, "") == Verdict(sentence="No.", final=True)


def test_what_is_gone_does_not_come_back() -> None:
    verdict = judge(GoneError("project 3"), "")
    assert verdict == Verdict(sentence="There is no project 3 in Label Studio any more.", final=True)


def test_a_job_that_took_too_long_would_do_so_again() -> None:
    verdict = judge(JobTimeoutException("x"), "", timeout=60)
    assert verdict == Verdict(sentence="The job took longer than 60 s and was ended.", final=True)


def test_what_may_be_a_proxys_word_is_believed_the_fourth_time() -> None:
    for doubts in range(DOUBTS):
        assert judge(DoubtfulError("No."), "", doubts=doubts) == Verdict(sentence="No.", final=False, doubtful=True)
    assert judge(DoubtfulError("No."), "", doubts=DOUBTS) == Verdict(sentence="No.", final=True, doubtful=True)


def test_what_can_pass() -> None:
    assert judge(TransientError("Later.", 7), "") == Verdict(sentence="Later.", final=False, retry_after=7)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryShortError("Too little."), "Too little."),
        (StoreAwayError("It is away."), "It is away."),
        (DiskFullError("It is full."), "It is full."),
        (MemoryError(), "The worker's machine has no memory left for this task."),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "The disk of the worker's machine is full; make room in its TMPDIR.",
        ),
    ],
)
def test_what_is_lacking_may_be_there_later(error: Exception, sentence: str) -> None:
    assert judge(error, "") == Verdict(sentence=sentence, final=False)


def test_a_defect_is_tried_again_and_told_without_secrets() -> None:
    verdict = judge(ValueError(f"Token s3cret, Bearer {JWT}"), "s3cret")
    assert verdict == Verdict(sentence="Unexpected ValueError: Token ***, Bearer ***", final=False, expected=False)


def test_delays_grow_and_are_spread() -> None:
    assert [delay(attempt, jitter=0) for attempt in range(4)] == [5, 10, 20, 40]
    assert delay(0, jitter=1) == 8
    assert delay(50, jitter=0) == LONGEST_DELAY
    assert 5 <= delay(0) <= 8


def test_the_other_side_says_when() -> None:
    assert delay(3, retry_after=12) == 12
    assert delay(0, retry_after=0) == 1
    assert delay(0, retry_after=86400) == LONGEST_DELAY


def test_redact_without_a_secret_changes_nothing_else() -> None:
    assert redact("plain eyJust text", "") == "plain eyJust text"
