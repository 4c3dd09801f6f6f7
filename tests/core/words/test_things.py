"""The table of things, and what it makes of the labels that people use."""

import pytest

from av2t_core.words.things import Thing, match, names, things
from tests.conftest import ROOT


def matched(*labels: str) -> list[list[str]]:
    return [[thing.name for thing in of] for of in match(labels).values()]


def test_the_classes_stand_in_the_models_order() -> None:
    assert {of: len(names(of)) for of in ("audioset", "coco", "imagenet")} == {
        "audioset": 521,
        "coco": 80,
        "imagenet": 1000,
    }
    assert (names("audioset")[0], names("audioset")[69], names("audioset")[520]) == ("Speech", "Dog", "Field recording")
    assert (names("coco")[0], names("coco")[16], names("coco")[79]) == ("person", "dog", "toothbrush")
    assert (names("imagenet")[0], names("imagenet")[889], names("imagenet")[999]) == (
        "tench",
        "violin",
        "toilet tissue",
    )
    assert all(len(set(names(of))) == len(names(of)) for of in ("audioset", "coco", "imagenet"))


def test_a_thing_is_read_with_all_that_it_is() -> None:
    owl = things()["owl"]
    assert [names("audioset")[each] for each in owl.heard] == ["Owl", "Hoot"]
    assert [names("audioset")[each] for each in owl.hinted][:2] == ["Bird", "Bird vocalization, bird call, bird song"]
    assert [names("coco")[each] for each in owl.coco] == ["bird"]
    assert [names("imagenet")[each] for each in owl.imagenet] == ["great grey owl"]
    assert owl.kinds == ("bird", "wild animal", "animal")
    assert not owl.played


def test_a_range_of_classes_has_both_its_ends() -> None:
    dogs = [names("imagenet")[each] for each in things()["dog"].imagenet]
    assert (dogs[0], dogs[117], len(dogs)) == ("Chihuahua", "Mexican hairless", 119)


@pytest.mark.parametrize("thing", things().values(), ids=lambda thing: thing.name)
def test_a_thing_sounds_and_its_classes_are_said_once(thing: Thing) -> None:
    assert thing.heard or thing.hinted
    assert len(set(thing.heard + thing.hinted)) == len(thing.heard + thing.hinted)
    assert len(set(thing.coco)) == len(thing.coco)
    assert len(set(thing.imagenet)) == len(thing.imagenet)


@pytest.mark.parametrize(
    ("label", "thing"),
    [
        ("dog", "dog"),
        ("Dogs", "dog"),
        ("barking dog", "dog"),
        ("dog_barking", "dog"),
        ("Golden Retriever", "dog"),
        ("Bark", "dog"),
        ("wolves", "wolf"),
        ("coyote_howling", "wolf"),
        ("mynah bird singing", "bird"),
        ("Bleating sheep", "sheep"),
        ("Crying, sobbing", "person"),
        ("male_speech", "person"),
        ("baby_laughter", "baby"),
        ("Hen", "chicken"),
    ],
)
def test_a_label_may_say_it_in_many_ways(label: str, thing: str) -> None:
    assert matched(label) == [[thing]]


def test_a_kind_takes_all_that_no_nearer_label_takes() -> None:
    animal, bird, owl = matched("Animal", "bird", "owl")
    assert {"dog", "horse", "frog"} <= set(animal)
    assert {"bird", "crow", "duck"} <= set(bird)
    assert owl == ["owl"]
    assert not set(animal) & set(bird)
    assert "owl" not in bird


def test_labels_that_no_eye_and_ear_tell_apart_both_get_the_thing() -> None:
    assert matched("man", "woman", "baby") == [["person"], ["person"], ["baby"]]


def test_a_label_that_names_no_thing_is_left_empty() -> None:
    assert matched("dog", "background", "", "???") == [["dog"], [], [], []]


def test_the_predicted_values_stand_in_place_of_the_label() -> None:
    found = match(["Hund", "cat"], {"Hund": ("dog", "wolf"), "cat": ()})
    assert {label: [thing.name for thing in of] for label, of in found.items()} == {
        "Hund": ["dog", "wolf"],
        "cat": ["cat"],
    }


def test_without_labels_things_go_under_their_own_names() -> None:
    assert match(()) == {name: (thing,) for name, thing in things().items()}


def test_the_head_of_the_table_names_the_files_of_its_classes() -> None:
    head = (ROOT / "av2t_core/words/things.toml").read_text().partition("\n\n")[0]
    assert all(f"{of}.txt" in head for of in ("audioset", "coco", "imagenet"))
