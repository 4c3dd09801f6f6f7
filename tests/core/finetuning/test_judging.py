"""Which clips are held out, and what is said of a version that was measured on them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from av2t_core.finetuning.judging import ACCEPTED, Keyframes, Metrics, choose_held_out, compare, credited


def clip(ious: Iterable[float], masked: Sequence[float] = ()) -> Keyframes:
    values = tuple(ious)
    return Keyframes(ious=values, fs=values, masked=tuple(masked))


def test_metrics_are_means_over_keyframes_not_over_clips() -> None:
    metrics = Metrics.of([clip([0.8]), clip([0.2, 0.2, 0.4], masked=[0.0, 0.1])])
    assert metrics.sounding_iou == pytest.approx(0.4)
    assert metrics.iou == pytest.approx((0.8 + 0.2 + 0.2 + 0.4 + 1.0 + 0.9) / 6, abs=1e-4)
    assert metrics.silent_false_positives == 0.5
    assert (metrics.keyframes_sounding, metrics.keyframes_silent) == (4, 2)


def test_metrics_of_what_there_is_none_of_are_none() -> None:
    metrics = Metrics.of([clip([], masked=[0.0])])
    assert metrics.sounding_iou is None
    assert metrics.f is None


def test_a_gain_on_every_clip_is_better() -> None:
    old = [clip([0.3 + 0.01 * n] * 5) for n in range(6)]
    new = [clip([0.5 + 0.01 * n] * 5) for n in range(6)]
    verdict = compare(old, new)
    assert verdict.better
    assert verdict.difference == pytest.approx(0.2)
    assert "better" in verdict.sentence


def test_a_gain_that_one_clip_brings_is_not_enough() -> None:
    old = [clip([0.4] * 5) for _ in range(6)]
    new = [clip([0.9] * 5), *(clip([0.38] * 5) for _ in range(5))]
    verdict = compare(old, new)
    assert verdict.difference > 0
    assert not verdict.better
    assert "too few to be sure" in verdict.sentence


def test_a_loss_is_not_better() -> None:
    verdict = compare([clip([0.6] * 5)] * 6, [clip([0.4] * 5)] * 6)
    assert not verdict.better
    assert "not better" in verdict.sentence


def test_one_clip_never_decides() -> None:
    assert not compare([clip([0.1] * 5)], [clip([0.9] * 5)]).better


def test_false_masks_count() -> None:
    """A version that masks silence loses, however well it does elsewhere."""
    old = [clip([0.5, 0.5], masked=[0.0, 0.0])] * 6
    assert not compare(old, [clip([0.55, 0.55], masked=[0.5, 0.5])] * 6).better


@pytest.mark.parametrize("clips", [2, 4, 8, 20])
def test_of_a_version_that_is_no_better_it_seldom_says_so(clips: int) -> None:
    """The margin's promise is one time in twenty, of few clips as of many."""
    rng = np.random.default_rng(0)
    said = 0
    for seed in range(200):
        old, new = ([clip(rng.normal(0.5, 0.1, 5)) for _ in range(clips)] for _ in range(2))
        said += compare(old, new, seed).better
    assert said <= 20


def test_of_a_mask_that_was_left_as_predicted_no_version_gets_more_than_accepted() -> None:
    before = replace(clip([1.0, 0.5, 0.9]), accepted=frozenset({0}))
    [old], [new] = credited([before], [clip([0.85, 0.7, 0.95])])
    assert old.ious == (ACCEPTED, 0.5, 0.9)
    assert new.ious == (ACCEPTED, 0.7, 0.95)
    assert (old.fs, new.fs) == ((0.5, 0.9), (0.7, 0.95))


def test_a_mask_whose_label_alone_was_changed_was_left_as_predicted() -> None:
    [old], [new] = credited([clip([1.0])], [clip([0.7])])
    assert (old.ious, new.ious) == ((ACCEPTED,), (0.7,))
    assert Metrics.of([old]).f is None


def hashes(count: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, start + count)]


@pytest.mark.parametrize(("clips", "held_out"), [(5, 2), (6, 2), (20, 4), (38, 8), (1000, 200)])
def test_a_fifth_is_held_out_and_two_at_least(clips: int, held_out: int) -> None:
    for start in range(0, 500, 50):
        assert len(choose_held_out(hashes(clips, start), set())) == held_out


def test_it_does_not_matter_in_which_order_clips_are_named_or_how_often() -> None:
    clips = hashes(40)
    assert choose_held_out(clips, set()) == choose_held_out([*reversed(clips), *clips[:7]], set())


def test_what_is_held_out_stays_so_while_the_project_grows() -> None:
    clips, learnt, held_out = hashes(300), set[str](), set[str]()
    for count in range(5, 301, 7):
        grown = choose_held_out(clips[:count], learnt, held_out)
        assert held_out <= grown
        assert not grown & learnt
        assert len(grown) == max(2, round(count / 5))
        held_out, learnt = grown, set(clips[:count]) - grown


def test_what_is_held_out_stays_so_while_the_project_shrinks() -> None:
    clips = hashes(40)
    held_out = choose_held_out(clips, set())
    fewer = [*held_out, *(set(clips) - held_out)][:20]
    assert choose_held_out(fewer, set(), held_out) == held_out


def test_what_an_earlier_version_has_learnt_never_measures() -> None:
    clips = hashes(12)
    learnt = set(clips) - choose_held_out(clips, set())
    grown = [*clips, *hashes(6, 12)]
    assert not choose_held_out(grown, learnt) & learnt
    assert choose_held_out(clips, set(clips)) == set()
