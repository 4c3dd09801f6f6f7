import numpy as np

from av2t_core.prediction.objects import Detection, Tracker, joined


def part(x: int, width: int = 20, *, y: int = 20, name: str | None = "dog", score: float = 0.5) -> Detection:
    """A box 40 pixels high in a frame of 400 x 200."""
    mask = np.zeros((200, 400), np.bool_)
    mask[y : y + 40, x : x + width] = True
    return Detection(names={name: 0.6} if name else {}, score=score, mask=mask)


def boxes(things: tuple[Detection, ...]) -> list[tuple[int, int]]:
    return sorted((thing.box[0], thing.box[2]) for thing in things)


def test_a_thing_behind_a_pole_is_one_thing() -> None:
    [dog] = joined([part(10, score=0.4), part(38, score=0.7)])
    assert (dog.label, dog.score, dog.box) == ("dog", 0.7, (10, 20, 48, 40))
    assert dog.mask.sum() == 2 * 20 * 40


def test_parts_far_apart_are_things_of_their_own() -> None:
    assert boxes(joined([part(10), part(60)])) == [(10, 20), (60, 20)]


def test_things_of_several_names_are_never_one() -> None:
    assert len(joined([part(10), part(20, name="fox"), part(30, name=None)])) == 3


def test_a_part_between_two_joins_them() -> None:
    assert boxes(joined([part(10), part(50), part(32)])) == [(10, 60)]
    assert joined([]) == ()


def test_the_names_of_all_parts_are_kept() -> None:
    both = joined(
        [
            Detection(names={"dog": 0.6, "fox": 0.2}, score=1, mask=part(10).mask),
            Detection(names={"dog": 0.5, "wolf": 0.3}, score=1, mask=part(12).mask),
        ]
    )
    assert [list(thing.names.items()) for thing in both] == [[("dog", 0.6), ("wolf", 0.3), ("fox", 0.2)]]


def numbers(*keyframes: list[Detection]) -> list[list[int]]:
    tracker = Tracker()
    return [[thing.number for thing in tracker.follow(seen)] for seen in keyframes]


def test_what_is_nearest_is_the_same_thing() -> None:
    assert numbers([part(10), part(200)], [part(120), part(25)], [], [part(30), part(90)]) == [
        [1, 2],
        [2, 1],
        [],
        [1, 2],
    ]


def test_one_more_is_a_new_thing() -> None:
    assert numbers([part(10)], [part(200), part(12)], [part(201)]) == [[1], [2, 1], [2]]


def test_another_name_is_another_thing() -> None:
    assert numbers([part(10)], [part(10, name="fox")], [part(300), part(10, name=None)]) == [[1], [2], [1, 3]]


def test_things_that_part_are_two_from_then_on() -> None:
    def seen(gap: int) -> list[Detection]:
        return list(joined([part(100), part(120 + gap)]))

    assert numbers(seen(2), seen(10), seen(60), seen(90)) == [[1], [1], [1, 2], [1, 2]]
