"""The table of things.toml: what is heard and seen of a thing, and which of a project's labels it goes under."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Thing:
    """What sounds and can be pointed at. The numbers are of the classes in audioset.txt, coco.txt and imagenet.txt."""

    name: str
    called: tuple[str, ...]  # other words for it
    kinds: tuple[str, ...]  # all that it is, the nearest first
    heard: tuple[int, ...]  # it sounds when these do
    hinted: tuple[int, ...]  # these may be it, and others, too; the nearest first, none of them in `heard`
    coco: tuple[int, ...]  # what it is seen as: its own classes, then those in `coco_kin`
    imagenet: tuple[int, ...]
    coco_kin: frozenset[int]  # other things that an eye takes it for
    imagenet_kin: frozenset[int]
    played: bool  # somebody in view plays or holds it


@cache
def names(of: Literal["audioset", "coco", "imagenet"]) -> tuple[str, ...]:
    """The classes, in the models' order."""
    return tuple((_HERE / f"{of}.txt").read_text(encoding="utf-8").splitlines())


@cache
def things() -> Mapping[str, Thing]:
    """By name, in the table's order. Read once."""
    return MappingProxyType({name: _thing(name, entry) for name, entry in _table()["thing"].items()})


def match(
    labels: Sequence[str], aliases: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Mapping[str, tuple[Thing, ...]]:
    """What each label may be; nothing, if the table knows no such thing or another label says more exactly what it is.

    `aliases` are what the label config's `predicted_values` say in place of a label. A label is read as the name of a
    thing or of a kind, as a sound or a class of COCO or ImageNet, or for such words in it. Of two labels that claim a
    thing, the nearer one gets it (`owl` before `bird` before `animal`), and both if they are equally near (`man` and
    `woman`). Without labels, each thing goes under its own name.
    """
    known = things()
    if not labels:
        return {name: (thing,) for name, thing in known.items()}
    claims = {label: _claims(aliases.get(label) or (label,)) for label in labels}
    nearest: Distances = {}
    for claim in claims.values():
        nearest |= {name: min(far, nearest.get(name, far)) for name, far in claim.items()}
    return {
        label: tuple(thing for name, thing in known.items() if name in claim and claim[name] == nearest[name])
        for label, claim in claims.items()
    }


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((_HERE / "things.toml").read_text(encoding="utf-8"))


def _with_wider(kinds: Sequence[str]) -> tuple[str, ...]:
    """These kinds and all that they are kinds of, the nearest first."""
    found: dict[str, None] = {}
    while kinds:
        found |= dict.fromkeys(kinds)
        kinds = [wider for kind in kinds for wider in _table()["kind"][kind].get("of", ())]
    return tuple(found)


def _thing(name: str, entry: Mapping[str, Any]) -> Thing:
    kinds = _with_wider(entry["kinds"])
    heard = _indices("audioset", entry.get("heard", ()))
    hints = [*entry.get("hinted", ()), *(hint for kind in kinds for hint in _table()["kind"][kind].get("hinted", ()))]
    coco_kin = _indices("coco", entry.get("coco_kin", ()))
    imagenet_kin = _indices("imagenet", entry.get("imagenet_kin", ()))
    return Thing(
        name=name,
        called=tuple(entry.get("called", ())),
        kinds=kinds,
        heard=heard,
        hinted=tuple(index for index in _indices("audioset", hints) if index not in heard),
        coco=_indices("coco", entry.get("coco", ())) + coco_kin,
        imagenet=_indices("imagenet", entry.get("imagenet", ())) + imagenet_kin,
        coco_kin=frozenset(coco_kin),
        imagenet_kin=frozenset(imagenet_kin),
        played=entry.get("played", False),
    )


def _indices(of: Literal["audioset", "coco", "imagenet"], classes: Iterable[str]) -> tuple[int, ...]:
    index = _index(of)
    found: dict[int, None] = {}
    for each in classes:
        first, _, last = each.partition(" .. ")
        found |= dict.fromkeys(range(index[first], index[last or first] + 1))
    return tuple(found)


@cache
def _index(of: Literal["audioset", "coco", "imagenet"]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names(of))}


# What a label says ---------------------------------------------------------------------------------------------------

Distances = dict[str, tuple[int, int]]
"""Names of things, each with how far the words are from its name; the less the nearer."""

_NAME, _CLASS = 0, 1  # a kind is as much farther as things are of it
_LONGEST = 4  # words of a term in a label
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "feet": "foot",
}
_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", ""))
_GERUNDS = (("ing", ""), ("ing", "e"))


@cache
def _named() -> Mapping[str, Mapping[str, int]]:
    """What things and kinds are called, to things and distances."""
    terms: dict[str, dict[str, int]] = defaultdict(dict)
    for kind, entry in _table()["kind"].items():
        members = [thing.name for thing in things().values() if kind in thing.kinds]
        for term in (kind, *entry.get("called", ())):
            for name in members:
                terms[_key(_words(term))].setdefault(name, _CLASS + len(members))
    for thing in things().values():
        for term in (thing.name, *thing.called):
            terms[_key(_words(term))][thing.name] = _NAME
    return terms


@cache
def _classes() -> Mapping[str, Mapping[str, int]]:
    """The classes of ears and eyes, to the things that they are."""
    terms: dict[str, dict[str, int]] = defaultdict(dict)
    for thing in things().values():
        seen = [names("coco")[each] for each in thing.coco if each not in thing.coco_kin]
        seen += [names("imagenet")[each] for each in thing.imagenet if each not in thing.imagenet_kin]
        heard = [names("audioset")[each] for each in thing.heard]
        for term in (*seen, *heard, *(part for name in heard for part in re.split("[,()]", name))):
            terms[_key(_words(term))][thing.name] = _CLASS
    return terms


def _claims(meanings: Sequence[str]) -> Distances:
    """What these words may be; a term in a label is less near than one that is the whole of it."""
    claims: Distances = {}
    for words in map(_words, meanings):
        for inside, terms in ((0, _named()), (0, _classes()), (1, _named()), (1, _classes())):
            found = list(_inside(words, terms)) if inside else [_look_up(words, terms)]
            if any(found):
                for name, distance in (each for distances in found for each in distances.items()):
                    claims[name] = min(claims.get(name, (distance, inside)), (distance, inside))
                break
    return claims


def _inside(words: Sequence[str], terms: Mapping[str, Mapping[str, int]]) -> Iterator[Mapping[str, int]]:
    """Of terms that overlap, the one that begins first, and then the longest."""
    start = 0
    while start < len(words):
        for length in range(min(_LONGEST, len(words) - start), 0, -1):
            if found := _look_up(words[start : start + length], terms):
                yield found
                break
        else:
            length = 1
        start += length


def _look_up(words: Sequence[str], terms: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    """By the words as they are, or with the last in the singular or without its -ing."""
    if not words:
        return {}
    *before, last = words
    return next((terms[key] for form in _forms(last) if (key := _key([*before, form])) in terms), {})


def _forms(word: str) -> Iterator[str]:
    yield word
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    for ending, instead in _PLURALS + _GERUNDS:
        if word.endswith(ending):
            yield word.removesuffix(ending) + instead


def _words(text: str) -> list[str]:
    """In lower case; hyphens, underscores and capitals inside a word part them."""
    return re.findall(r"[^\W_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", text).casefold())


def _key(words: Sequence[str]) -> str:
    """The same for chain saw, chain-saw and chainsaw."""
    return "".join(words)
