"""`av2t models list`, `show` and `compare`: what the cards say, for a person or as JSON."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from av2t.console import note, table
from av2t.remedies import told
from av2t_core.errors import WeightsError
from av2t_core.files import in_gigabytes
from av2t_core.versions.card import Metrics
from av2t_core.versions.names import CARD_FILE
from av2t_core.versions.pointers import Pointer, read_all
from av2t_core.versions.version import BUILT_IN, Version, damaged, installed, resolve
from worker.settings import Settings

# By what a version is judged, as the cards have it: shares, in the order in which people care for them.
METRICS = {
    "sounding_iou": "IoU where something sounds",
    "iou": "IoU",
    "f": "F",
    "silent_false_positives": "masked where nothing sounds",
}
SHOWN_LABELS = 12

Pointers = Mapping[int, Pointer]


def show_all(args: argparse.Namespace) -> int:
    settings = Settings.load()
    pointers, versions = read_all(settings.models_dir), installed(settings.models_dir)
    if args.project is not None:
        versions = _of_project(args.project, versions, pointers, settings)
    found = [_summary(version, pointers, settings) for version in versions]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    where = settings.store is not None
    head = ["name", *(["where"] if where else [])]
    head += ["loads onto", "project", "made", "size", "IoU where it sounds", "used by"]
    rows = [
        [
            each["name"],
            *([_where(each)] if where else []),
            each["loads_onto"] or "-",
            str(each["project"] or "-"),
            _time(each["created"]),
            in_gigabytes(each["bytes"]),
            _gain(each["before"], each["after"]),
            _used_by(each),
        ]
        for each in found
    ]
    print("\n".join(table(f"Model versions in {settings.models_dir}", [head, *rows])[1:]))
    for sentence in damaged(settings.models_dir).values():
        note(sentence)
    return 0


def show(args: argparse.Namespace) -> int:
    settings = Settings.load()
    version = resolve(args.name, settings.models_dir)
    found = _summary(version, read_all(settings.models_dir), settings)
    if args.json:
        print(json.dumps({**found, "card": version.card.as_json()}, indent=2))
        return 0
    card = version.card
    about = {
        "verdict": card.verdict and card.verdict.sentence,
        "used by": _used_by(found),
        "loads onto": " onto ".join(_chain(version)[1:]),
        "trained from": None if found["loads_onto"] else card.parent,
        "project": found["project"],
        "made": found["created"] and _time(found["created"]),
        "preset": f"{card.preset}, feature {card.feature}",
        "names": _labels((*(card.names or ()), *card.labels)),
        "size": f"{in_gigabytes(found['bytes'])} in {version.directory}",
        "where": _where(found) if settings.store else None,
        "lacks": found["lacks"],
    }
    lines = table(version.name, [[name, str(value)] for name, value in about.items() if value])[1:]
    if card.metrics and card.metrics.after:
        lines += table(
            f"On {_clips(found['held_out_clips'])} that it has not learnt from",
            _before_and_after(version, card.metrics),
        )
        lines += table("What people did with what was pre-annotated", _agreement(card.metrics.agreement))
    else:
        lines += table("Metrics", _pairs(card.metrics.as_json() if card.metrics else None))
    lines += table("Clips", _uses(version))
    lines += table("Recipe", _pairs(card.recipe))
    print("\n".join(lines))
    return 0


def compare(args: argparse.Namespace) -> int:
    settings = Settings.load()
    pointers = read_all(settings.models_dir)
    versions = [resolve(name, settings.models_dir) for name in (args.first, args.second)]
    found = [_summary(version, pointers, settings) for version in versions]
    one, other = (_sets(version) for version in versions)
    common = {use: len(one[use] & other[use]) for use in ("training", "held out")}
    if args.json:
        print(json.dumps({"versions": found, "clips_in_common": common}, indent=2))
        return 0
    judged = [[text, *(_share(each["after"].get(key)) for each in found)] for key, text in METRICS.items()]
    before = [f"{METRICS['sounding_iou']}, before it", *(_share(each["before"].get("sounding_iou")) for each in found)]
    rows = [
        ["", *(version.name for version in versions)],
        *judged,
        before,
        ["clips held out", *(str(each["held_out_clips"] or "-") for each in found)],
        ["clips trained on", *(str(len(sets["training"]) or "-") for sets in (one, other))],
        ["project", *(str(each["project"] or "-") for each in found)],
        ["made", *(_time(each["created"]) for each in found)],
        ["loads onto", *(each["loads_onto"] or "-" for each in found)],
        ["used by", *(_used_by(each) or "-" for each in found)],
    ]
    lines = table("", rows)[2:]
    if one["held out"] and other["held out"] and one["held out"] != other["held out"]:
        lines += [
            "",
            f"They were judged on different clips, {common['held out']} of which are the same: hold each against what"
            " was there before it.",
        ]
    if common["training"]:
        lines += ["", f"Clips that both were trained on: {common['training']}."]
    if leaked := len(one["training"] & other["held out"]) + len(one["held out"] & other["training"]):
        lines += [f"Clips that one of them was trained on and the other judged by: {leaked}."]
    print("\n".join(lines))
    return 0


def _summary(version: Version, pointers: Pointers, settings: Settings) -> dict[str, Any]:
    """What JSON says of a version; of the cards' fields only those that name the weights are there for certain."""
    card = version.card
    metrics, built_in = card.metrics or Metrics(), version.directory.parent == BUILT_IN
    path = version.directory / CARD_FILE
    made = None if built_in else datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {
        "name": version.name,
        "preset": card.preset,
        "parent": card.parent,
        "loads_onto": card.loads_onto,
        "project": card.project,
        "created": card.created or made,
        "bytes": sum(path.stat().st_size for path, _ in version.kept_files if path.is_file()),
        "lacks": _lack(version),
        "here": all(path.is_file() for path, _ in version.own_files),
        "in_store": version.in_store,
        "built_in": built_in,
        "held_out_clips": metrics.held_out_clips,
        "before": metrics.before or {},
        "after": metrics.after or {},
        "better": card.verdict and card.verdict.better,
        "current_of": [project for project, pointer in pointers.items() if pointer.current == version.name],
        "is_default": _default(settings) == version.name,
    }


def _where(found: Mapping[str, Any]) -> str:
    if found["built_in"]:
        return "package"
    return (
        " and ".join(place for place, there in (("here", found["here"]), ("store", found["in_store"])) if there) or "-"
    )


def _lack(version: Version) -> str | None:
    try:
        version.check_files()
    except WeightsError as error:
        return told(error)
    return None


def _default(settings: Settings) -> str | None:
    """The version of projects that were given none."""
    try:
        return resolve(settings.model, settings.models_dir).name
    except WeightsError:
        return None


def _of_project(project: int, versions: Sequence[Version], pointers: Pointers, settings: Settings) -> list[Version]:
    """Those that the project has made, uses or used, and what they load onto."""
    pointer = pointers.get(project)
    names = {pointer.current, *pointer.history} if pointer else {_default(settings)}
    own = [version for version in versions if version.card.project == project or version.name in names]
    wanted = {name for version in own for name in _chain(version)}
    return [version for version in versions if version.name in wanted]


def _chain(version: Version) -> list[str]:
    """The names of the version and of what it loads onto, as far as that is here."""
    try:
        return [each.name for each in version.chain]
    except WeightsError:
        return [version.name, str(version.card.parent)]


def _sets(version: Version) -> dict[str, set[str]]:
    """The hashes of the clips that it was trained on, and of those that it was judged by."""
    return {
        use: {clip.sha256 for clip in version.card.clips if clip.use == use and clip.sha256}
        for use in ("training", "held out")
    }


def _uses(version: Version) -> list[list[str]]:
    card = version.card
    uses = Counter(": ".join(filter(None, (clip.use, clip.reason))) for clip in card.clips)
    return [[use, str(number)] for use, number in uses.most_common()] or _pairs(
        card.data.as_json() if card.data else None
    )


def _before_and_after(version: Version, metrics: Metrics) -> list[list[str]]:
    before, after = metrics.before or {}, metrics.after or {}
    rows = [["", str(version.card.parent), version.name]]
    rows += [[text, _share(before.get(key)), _share(after.get(key))] for key, text in METRICS.items()]
    if {"low", "high"} <= (difference := metrics.difference or {}).keys():
        between = f"between {_points(difference['low'])} and {_points(difference['high'])}"
        gains = [(METRICS[name], _points(value)) for name, value in difference.items() if name in METRICS]
        rows += [[f"gained in {text}", gain, between] for text, gain in gains]
    return rows


def _agreement(found: Mapping[str, Any]) -> list[list[str]]:
    share = found.get("accepted")
    return _pairs(found if share is None else {**found, "accepted": f"{share:.0%}"})


def _pairs(fields: Mapping[str, Any] | None) -> list[list[str]]:
    """The plain fields; a share is one."""
    return [
        [name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in (fields or {}).items()
        if value not in (None, [], "") and not isinstance(value, dict)
    ]


def _labels(labels: Sequence[str]) -> str:
    more = f", … ({len(labels)})" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(labels[:SHOWN_LABELS]) + more


def _used_by(found: Mapping[str, Any]) -> str:
    projects = found["current_of"]
    users = [f"project{'s' if len(projects) > 1 else ''} {', '.join(map(str, projects))}"] if projects else []
    return "; ".join(users + (["AV2T_MODEL"] if found["is_default"] else []))


def _gain(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> str:
    if after.get("sounding_iou") is None:
        return "-"
    was = f" (was {_share(before['sounding_iou'])})" if before.get("sounding_iou") is not None else ""
    return _share(after["sounding_iou"]) + was


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _time(created: str | None) -> str:
    """An ISO time to the minute."""
    return created[:16].replace("T", " ") if created else "-"


def _clips(number: int | None) -> str:
    return f"{number} clip{'' if number == 1 else 's'}" if number is not None else "clips"
