import hashlib

from av2t_core.finetuning.judging import choose_held_out


def hashes(count: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, start + count)]


def test_about_a_fifth_is_held_out() -> None:
    assert 160 < len(choose_held_out(hashes(1000), set())) < 240


def test_it_does_not_matter_in_which_order_clips_are_named_or_how_often() -> None:
    clips = hashes(40)
    assert choose_held_out(clips, set()) == choose_held_out([*reversed(clips), *clips[:7]], set())


def test_what_is_held_out_stays_so_while_the_project_grows() -> None:
    clips = hashes(500)
    some = choose_held_out(clips[:100], set())
    assert some <= choose_held_out(clips, set())


def test_of_five_clips_two_are_held_out_and_three_left() -> None:
    for start in range(0, 500, 5):
        assert len(choose_held_out(hashes(5, start), set())) == 2


def test_what_an_earlier_version_has_learnt_never_measures() -> None:
    clips = hashes(12)
    learnt = set(clips) - choose_held_out(clips, set())
    grown = [*clips, *hashes(6, 12)]
    assert not choose_held_out(grown, learnt) & learnt
    assert choose_held_out(clips, set(clips)) == set()
