"""The table of things, and what it makes of the labels that people use."""

import tomllib
from collections import Counter

import pytest

from av2t_core.words.things import Thing, match, names, things
from tests.conftest import ROOT

TABLE = tomllib.loads((ROOT / "av2t_core/words/things.toml").read_text(encoding="utf-8"))
FIELDS = {"called", "kinds", "heard", "hinted", "coco", "coco_kin", "imagenet", "imagenet_kin", "played", "voice"}

# AVSBench's classes: of single sources as in VGGSound, of several sources, and of the semantic part.
S4 = {
    "baby_laughter": "baby",
    "female_singing": "person",
    "male_speech": "person",
    "dog_barking": "dog",
    "cat_meowing": "cat",
    "lions_roaring": "lion",
    "horse_clip-clop": "horse",
    "coyote_howling": "wolf",
    "mynah_bird_singing": "bird",
    "playing_acoustic_guitar": "acoustic guitar",
    "playing_tabla": "tabla",
    "playing_violin": "violin",
    "playing_piano": "piano",
    "playing_ukulele": "ukulele",
    "playing_glockenspiel": "glockenspiel",
    "helicopter": "helicopter",
    "race_car": "car",
    "driving_buses": "bus",
    "ambulance_siren": "ambulance",
    "typing_on_computer_keyboard": "computer keyboard",
    "chainsawing_trees": "chainsaw",
    "cap_gun_shooting": "gun",
    "lawn_mowing": "lawn mower",
}
MS3 = """
baby bird bus car cat dog emergency-car guitar gun keyboard lion man marimba mower piano saw tabla ukulele violin wolf
woman
"""
SEMANTIC = """
accordion airplane axe baby bassoon bell bird boat boy bus car cat cello clarinet clipper clock dog donkey drum duck
elephant emergency-car erhu flute frying-food girl goose guitar gun guzheng hair-dryer handpan harmonica harp
helicopter hen horse keyboard leopard lion man marimba missile-rocket motorcycle mower parrot piano pig pipa saw
saxophone sheep sitar sorna squirrel tabla tank tiger tractor train trombone truck trumpet tuba ukulele utv
vacuum-cleaner violin wolf woman
"""
SEVERAL = {
    "bell": {"bell", "church bell", "tubular bells", "wind chime"},
    "boat": {"boat", "canoe", "motorboat", "sailboat", "ship"},
    "drum": {"drum", "drum kit", "steel drum", "timpani"},
    "emergency-car": {"ambulance", "emergency vehicle", "fire engine", "police car"},
    "guitar": {"acoustic guitar", "bass guitar", "electric guitar", "guitar", "steel guitar"},
    "keyboard": {"computer keyboard", "electronic keyboard"},
    "saw": {"chainsaw", "hand saw"},
}
"""Labels that are a kind, or two things."""


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


def test_every_class_of_audioset_names_things_or_says_why_it_names_none() -> None:
    nothing = [each for reason in TABLE["nothing"].values() for each in reason]
    entries = [*TABLE["thing"].values(), *TABLE["kind"].values()]
    something = {each for entry in entries for field in ("heard", "hinted") for each in entry.get(field, ())}
    assert [each for each, count in Counter(nothing).items() if count > 1] == []
    assert set(nothing) & something == set()
    assert set(nothing) | something == set(names("audioset"))


def test_the_table_has_nothing_that_nobody_reads() -> None:
    assert set(TABLE) == {"nothing", "kind", "thing"}
    assert {field for entry in TABLE["kind"].values() for field in entry} <= {"of", "called", "hinted", "played"}
    assert {field for entry in TABLE["thing"].values() for field in entry} <= FIELDS
    assert {kind for thing in things().values() for kind in thing.kinds} == set(TABLE["kind"])


def test_an_instrument_is_played_and_its_player_is_not() -> None:
    assert all(thing.played for thing in things().values() if "instrument" in thing.kinds)
    assert not any(thing.played for thing in things().values() if {"human", "animal", "vehicle"} & set(thing.kinds))


def test_what_no_eye_finds_is_known() -> None:
    assert {name for name, thing in things().items() if not thing.coco + thing.imagenet} == {"fireworks", "theremin"}


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
        ("Animal: dog", "dog"),
        ("Birds/Owl", "owl"),
        ("people crowd", "person"),
        ("chicken crowing", "chicken"),
        ("chain-saw", "chainsaw"),
        ("VacuumCleaner", "vacuum cleaner"),
        ("Knives", "knife"),
        ("police car (siren)", "police car"),
        ("TV", "television"),
    ],
)
def test_a_label_may_say_it_in_many_ways(label: str, thing: str) -> None:
    assert matched(label) == [[thing]]


@pytest.mark.parametrize(("label", "thing"), S4.items())
def test_avsbenchs_single_sources_are_known(label: str, thing: str) -> None:
    assert matched(label) == [[thing]]


@pytest.mark.parametrize("labels", [MS3, SEMANTIC], ids=["several sources", "semantic"])
def test_avsbenchs_labels_share_the_things_among_them(labels: str) -> None:
    found = {label: {thing.name for thing in of} for label, of in match(labels.split()).items()}
    for label, several in SEVERAL.items():
        assert found.get(label, several) == several
    single = {label: of for label, of in found.items() if label not in SEVERAL and label != "bird"}
    assert {label: of for label, of in single.items() if len(of) != 1} == {}
    assert {"bird", "crow", "owl"} <= found["bird"]
    assert found["man"] == found["woman"] == {"person"}


def test_what_the_demo_shows_is_known() -> None:
    labels = (ROOT / "av2t/demo_clips/labels.txt").read_text().split()
    assert labels
    assert all(match([label])[label] for label in labels)


def test_words_for_two_things_are_left_to_what_sounds() -> None:
    assert matched("mouse", "bass", "speaker") == [
        ["mouse", "computer mouse"],
        ["bass guitar", "double bass"],
        ["person", "loudspeaker"],
    ]


def test_a_sound_that_a_kind_makes_is_all_of_its_kind() -> None:
    [engines] = matched("engine knocking")
    assert {"car", "bus", "motorcycle"} <= set(engines)


def test_a_kind_takes_all_that_no_nearer_label_takes() -> None:
    animal, bird, owl = matched("Animal", "bird", "owl")
    assert {"dog", "horse", "frog"} <= set(animal)
    assert {"bird", "crow", "duck"} <= set(bird)
    assert owl == ["owl"]
    assert not set(animal) & set(bird)
    assert "owl" not in bird


def test_labels_that_no_eye_and_ear_tell_apart_both_get_the_thing() -> None:
    assert matched("man", "woman", "baby") == [["person"], ["person"], ["baby"]]
    assert matched("man", "people") == [["person"], ["person", "baby"]]


def test_a_label_that_names_no_thing_is_left_empty() -> None:
    none = ["background", "sound", "wind", "road", "food", "traffic light", "office chair", "", "???"]
    assert matched("dog", *none) == [["dog"], *([] for _ in none)]


def test_a_label_of_any_length_is_read() -> None:
    assert matched("dog " * 100_000, "x" * 100_000) == [["dog"], []]


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
