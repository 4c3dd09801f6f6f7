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
    voice: frozenset[int]  # of these, what comes from a face
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
    nearest = _nearest(each for claim in claims.values() for each in claim.items())
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
    of = [_table()["kind"][kind] for kind in kinds]
    heard = _indices("audioset", entry.get("heard", ()))
    hinted = _indices("audioset", [hint for each in (entry, *of) for hint in each.get("hinted", ())])
    coco_kin = _indices("coco", entry.get("coco_kin", ()))
    imagenet_kin = _indices("imagenet", entry.get("imagenet_kin", ()))
    return Thing(
        name=name,
        called=tuple(entry.get("called", ())),
        kinds=kinds,
        heard=heard,
        hinted=tuple(index for index in hinted if index not in heard),
        voice=frozenset(_indices("audioset", entry.get("voice", ()))),
        coco=_indices("coco", entry.get("coco", ())) + coco_kin,
        imagenet=_indices("imagenet", entry.get("imagenet", ())) + imagenet_kin,
        coco_kin=frozenset(coco_kin),
        imagenet_kin=frozenset(imagenet_kin),
        played=any(each.get("played", False) for each in (entry, *of)),
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


Distance = tuple[int, int]
"""Of words from a thing, the less the nearer: by what term of it, and whether other words stand beside the term."""
Distances = dict[str, Distance]

Terms = Mapping[str, Mapping[str, int]]
"""Terms by their `_key`, to names of things."""
Endings = tuple[tuple[str, str], ...]
"""Each with what stands in its place."""

_NAME, _CLASS = 0, 1  # a kind is as much farther as things are of it
_LONGEST = 4  # words of a term in a label
_MOST = 16  # words of a label that terms are looked for in; what is longer is no name
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
}
_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", ""))
_GERUNDS = (("ing", ""), ("ing", "e"))


@cache
def _named() -> Terms:
    """What things and kinds are called, to things and distances."""
    terms: dict[str, dict[str, int]] = defaultdict(dict)
    for kind, entry in _table()["kind"].items():
        for key in _keys((kind, *entry.get("called", ()))):
            terms[key] |= _members(kind)
    for thing in things().values():
        for key in _keys((thing.name, *thing.called)):
            terms[key][thing.name] = _NAME
    return terms


@cache
def _classes() -> Terms:
    """The classes of ears and eyes, to the things that they are, or else to a kind's things that they hint at."""
    terms: dict[str, dict[str, int]] = defaultdict(dict)
    for thing in things().values():
        seen = [names("coco")[each] for each in thing.coco if each not in thing.coco_kin]
        seen += [names("imagenet")[each] for each in thing.imagenet if each not in thing.imagenet_kin]
        for key in _keys(seen, [names("audioset")[each] for each in thing.heard]):
            terms[key][thing.name] = _CLASS
    for kind, entry in _table()["kind"].items():
        for key in _keys((), entry.get("hinted", ())) - terms.keys():
            terms[key] = _members(kind)
    return terms


def _members(kind: str) -> dict[str, int]:
    found = [thing.name for thing in things().values() if kind in thing.kinds]
    return dict.fromkeys(found, _CLASS + len(found))


def _keys(terms: Iterable[str], sounds: Iterable[str] = ()) -> set[str]:
    """AudioSet's names of sounds may be lists of terms: `Crying, sobbing`. What is in brackets alone says nothing."""
    parts = [part for sound in sounds for part in (sound, *re.sub(r"\(.*\)", "", sound).split(","))]
    return {_key(_words(term)) for term in (*terms, *parts)} - {""}


def _claims(meanings: Sequence[str]) -> Distances:
    """Of a label that means all of these."""
    return _nearest(each for meaning in meanings for each in _meant(_words(meaning)))


def _nearest(claims: Iterable[tuple[str, Distance]]) -> Distances:
    nearest: Distances = {}
    for name, distance in claims:
        nearest[name] = min(distance, nearest.get(name, distance))
    return nearest


def _meant(words: Sequence[str]) -> Iterator[tuple[str, Distance]]:
    """Things that the words may be, by the whole of them or else by terms in them."""
    known = ((_named(), _PLURALS), (_classes(), _PLURALS + _GERUNDS))
    for terms, endings in known:
        if whole := _look_up(words, terms, endings):
            yield from ((name, (distance, 0)) for name, distance in whole.items())
            return
    for terms, endings in known:
        if parts := list(_inside(words[:_MOST], terms, endings)):
            for part in parts:
                # `Animal: dog` is a dog.
                if not any(other.keys() < part.keys() for other in parts):
                    yield from ((name, (distance, 1)) for name, distance in part.items())
            return


def _inside(words: Sequence[str], terms: Terms, endings: Endings) -> Iterator[Mapping[str, int]]:
    """Of terms that overlap, the one that begins first, and then the longest."""
    start = 0
    while start < len(words):
        for length in range(min(_LONGEST, len(words) - start), 0, -1):
            if found := _look_up(words[start : start + length], terms, endings):
                yield found
                break
        else:
            length = 1
        start += length


def _look_up(words: Sequence[str], terms: Terms, endings: Endings) -> Mapping[str, int]:
    """By the words as they are, or with another ending of the last."""
    *before, last = words or [""]
    return next((terms[key] for form in _forms(last, endings) if (key := _key([*before, form])) in terms), {})


def _forms(word: str, endings: Endings) -> Iterator[str]:
    yield _IRREGULAR.get(word, word)
    for ending, instead in endings:
        if word.endswith(ending):
            yield word.removesuffix(ending) + instead


def _words(text: str) -> list[str]:
    """In lower case; hyphens, underscores and capitals inside a word part them."""
    return re.findall(r"[^\W_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", text).casefold())


def _key(words: Sequence[str]) -> str:
    """The same for chain saw, chain-saw and chainsaw."""
    return "".join(words)
