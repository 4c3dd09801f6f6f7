"""The model versions: what each was trained on and how good it is, and which one a project uses.

A version is named after the one that it came from, its project and its training: small-1-p3-7 was made of small-1 by
training 7, of what people annotated in project 3. It is never changed. A project uses the version that it is pinned to
in Label Studio, else the one that was promoted, by a training or here, else AV2T_MODEL.

With a model store (AV2T_MODELS_URL) all of this is said and done of what is there, for all machines that share it.

examples:
  av2t models list --project 3
  av2t models show small-1-p3-7
  av2t models compare small-1-p3-6 small-1-p3-7
  av2t models promote small-1-p3-6 --project 3
  av2t models rollback --project 3
  av2t models export small-1-p3-7 barks.zip
  av2t models push small-1-p3-7

`av2t models COMMAND --help` tells more about one of them."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from av2t.console import counted, note, report, table
from av2t.options import Count, Json, load_settings
from av2t.remedies import told
from av2t.signature import Arg, Table
from av2t_core.errors import WeightsError
from av2t_core.files import in_gigabytes
from av2t_core.settings import ModelSettings
from av2t_core.versions.card import Metrics
from av2t_core.versions.names import CARD_FILE
from av2t_core.versions.pointers import Pointer, read_all
from av2t_core.versions.version import Version, damaged, installed, resolve

# By what a version is judged, as the cards have it: shares, in the order in which people care for them.
METRICS = {
    "sounding_iou": "IoU where something sounds",
    "iou": "IoU",
    "f": "F",
    "silent_false_positives": "masked where nothing sounds",
}
SHOWN_LABELS = 12

COMMANDS: Table = {
    "list": ("av2t.commands.models:list_versions", "list the model versions"),
    "show": ("av2t.commands.models:show", "show what is known of one"),
    "compare": ("av2t.commands.models:compare", "show two side by side"),
    "promote": ("av2t.commands.models_change:promote", "have a project use one"),
    "rollback": ("av2t.commands.models_change:rollback", "have a project use what it used before"),
    "delete": ("av2t.commands.models_change:delete", "delete one that nothing uses"),
    "push": ("av2t.commands.models_change:push", "bring some into the model store"),
    "export": ("av2t.commands.models_change:export", "write one into a file"),
    "import": ("av2t.commands.models_change:import_file", "take one out of a file"),
}

Pointers = Mapping[int, Pointer]


def list_versions(
    *,
    project: Annotated[Count | None, Arg("those of project N and what it uses, alone", "N")] = None,
    json: Json = False,
) -> None:
    """List the model versions: what each loads onto, its project, when it was made, how large it is by itself, and its
    IoU where something sounds, on clips that it has not learnt from, beside that of the version that it was trained
    from. With a model store it says where each version is."""
    settings = load_settings(ModelSettings)
    pointers, versions = read_all(settings.models_dir), installed(settings.models_dir)
    if project is not None:
        versions = _of_project(project, versions, pointers, settings)
    found = [_summary(version, pointers, settings) for version in versions]
    rows = [["name", "where", "loads onto", "project", "made", "size", "IoU where it sounds", "used by"]]
    for each in found:
        origin = [each["name"], _where(each), each["loads_onto"] or "-", str(each["project"] or "-")]
        gain = _gain(each["before"], each["after"])
        rows.append([*origin, _time(each["created"]), in_gigabytes(each["bytes"]), gain, _used_by(each)])
    if settings.store is None:
        rows = [row[:1] + row[2:] for row in rows]
    report(found, table(f"Model versions in {settings.models_dir}", rows)[1:], json=json, indent=2)
    for sentence in damaged(settings.models_dir).values() if not json else ():
        note(sentence)


def show(
    name: Annotated[str, Arg("model version, or preset for its newest one", "NAME")], *, json: Json = False
) -> None:
    """Show what a model version's card says: what it was trained on and how, what that did to its masks, and why it was
    promoted or not."""
    settings = load_settings(ModelSettings)
    version = resolve(name, settings.models_dir)
    found = _summary(version, read_all(settings.models_dir), settings)
    card = version.card
    names = (*(card.names or ()), *card.labels)
    about = {
        "verdict": card.verdict and card.verdict.sentence,
        "used by": _used_by(found),
        "loads onto": " onto ".join(_chain(version)[1:]),
        "trained from": None if found["loads_onto"] else card.parent,
        "project": found["project"],
        "made": found["created"] and _time(found["created"]),
        "preset": f"{card.preset}, feature {card.feature}",
        "names": ", ".join(names[:SHOWN_LABELS]) + (f", … ({len(names)})" if len(names) > SHOWN_LABELS else ""),
        "size": f"{in_gigabytes(found['bytes'])} in {version.directory}",
        "where": _where(found) if settings.store else None,
        "lacks": found["lacks"],
    }
    lines = table(version.name, [[name, str(value)] for name, value in about.items() if value])[1:]
    if card.metrics and card.metrics.after:
        clips = "clips" if found["held_out_clips"] is None else counted(found["held_out_clips"], "clip")
        lines += table(f"On {clips} that it has not learnt from", _before_and_after(version, card.metrics))
        agreement = card.metrics.agreement
        if (share := agreement.get("accepted")) is not None:
            agreement = {**agreement, "accepted": f"{share:.0%}"}
        lines += table("What people did with what was pre-annotated", _pairs(agreement))
    else:
        lines += table("Metrics", _pairs(card.metrics.as_json() if card.metrics else None))
    uses = Counter(": ".join(filter(None, (clip.use, clip.reason))) for clip in card.clips)
    data = card.data.as_json() if card.data else None
    lines += table("Clips", [[use, str(number)] for use, number in uses.most_common()] or _pairs(data))
    lines += table("Recipe", _pairs(card.recipe))
    report({**found, "card": card.as_json()}, lines, json=json, indent=2)


def compare(
    first: Annotated[str, Arg(metavar="A")], second: Annotated[str, Arg(metavar="B")], *, json: Json = False
) -> None:
    """Show two model versions side by side: how good they are on clips that they have not learnt from, and what each
    was trained on. It says so where those clips are not the same."""
    settings = load_settings(ModelSettings)
    pointers = read_all(settings.models_dir)
    versions = [resolve(name, settings.models_dir) for name in (first, second)]
    found = [_summary(version, pointers, settings) for version in versions]
    one, other = (_sets(version) for version in versions)
    common = {use: len(one[use] & other[use]) for use in ("training", "held out")}
    columns = [
        {
            "": each["name"],
            **{text: _share(each["after"].get(key)) for key, text in METRICS.items()},
            f"{METRICS['sounding_iou']}, before it": _share(each["before"].get("sounding_iou")),
            "clips held out": each["held_out_clips"],
            "clips trained on": len(sets["training"]),
            "project": each["project"],
            "made": _time(each["created"]),
            "loads onto": each["loads_onto"],
            "used by": _used_by(each),
        }
        for each, sets in zip(found, (one, other), strict=True)
    ]
    lines = table("", [[text, *(str(column[text] or "-") for column in columns)] for text in columns[0]])[2:]
    if one["held out"] and other["held out"] and one["held out"] != other["held out"]:
        judged = f"They were judged on different clips, {common['held out']} of which are the same"
        lines += ["", f"{judged}: hold each against what was there before it."]
    if common["training"]:
        lines += ["", f"Clips that both were trained on: {common['training']}."]
    if leaked := len(one["training"] & other["held out"]) + len(one["held out"] & other["training"]):
        lines += [f"Clips that one of them was trained on and the other judged by: {leaked}."]
    report({"versions": found, "clips_in_common": common}, lines, json=json, indent=2)


def _summary(version: Version, pointers: Pointers, settings: ModelSettings) -> dict[str, Any]:
    """What JSON says of a version; of the cards' fields only those that name the weights are there for certain."""
    card = version.card
    metrics, built_in = card.metrics or Metrics(), version.is_built_in
    path = version.directory / CARD_FILE
    made = None if built_in else datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {
        "name": version.name,
        "preset": card.preset,
        "parent": card.parent,
        "loads_onto": card.loads_onto,
        "project": card.project,
        "created": card.created or made,
        "bytes": sum(path.stat().st_size for path, _ in version.stored_files if path.is_file()),
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
    places = {"here": found["here"], "store": found["in_store"]}
    return "package" if found["built_in"] else " and ".join(place for place, there in places.items() if there) or "-"


def _lack(version: Version) -> str | None:
    try:
        version.check_files()
    except WeightsError as error:
        return told(error)
    return None


def _default(settings: ModelSettings) -> str | None:
    """The version of projects that were given none."""
    with suppress(WeightsError):
        return resolve(settings.model, settings.models_dir).name
    return None


def _of_project(project: int, versions: list[Version], pointers: Pointers, settings: ModelSettings) -> list[Version]:
    """Those that the project has made, uses or used, and what they load onto."""
    pointer = pointers.get(project)
    names = {pointer.current, *pointer.history} if pointer else {_default(settings)}
    own = [version for version in versions if version.card.project == project or version.name in names]
    wanted = {name for version in own for name in _chain(version)}
    return [version for version in versions if version.name in wanted]


def _chain(version: Version) -> list[str]:
    """The names of the version and of what it loads onto, as far as that is here."""
    with suppress(WeightsError):
        return [each.name for each in version.chain]
    return [version.name, str(version.card.parent)]


def _sets(version: Version) -> dict[str, set[str]]:
    """The hashes of the clips that it was trained on, and of those that it was judged by."""
    return {
        use: {clip.sha256 for clip in version.card.clips if clip.use == use and clip.sha256}
        for use in ("training", "held out")
    }


def _before_and_after(version: Version, metrics: Metrics) -> list[list[str]]:
    before, after = metrics.before or {}, metrics.after or {}
    rows = [["", str(version.card.parent), version.name]]
    rows += [[text, _share(before.get(key)), _share(after.get(key))] for key, text in METRICS.items()]
    if {"low", "high"} <= (difference := metrics.difference or {}).keys():
        between = f"between {_points(difference['low'])} and {_points(difference['high'])}"
        gains = [(METRICS[name], _points(value)) for name, value in difference.items() if name in METRICS]
        rows += [[f"gained in {text}", gain, between] for text, gain in gains]
    return rows


def _pairs(fields: Mapping[str, Any] | None) -> list[list[str]]:
    """The plain fields; a share is one."""
    return [
        [name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in (fields or {}).items()
        if value not in (None, [], "") and not isinstance(value, dict)
    ]


def _used_by(found: Mapping[str, Any]) -> str:
    projects = found["current_of"]
    users = [f"project{'s' if len(projects) > 1 else ''} {', '.join(map(str, projects))}"] if projects else []
    return "; ".join(users + (["AV2T_MODEL"] if found["is_default"] else []))


def _gain(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> str:
    was, now = (_share(scores.get("sounding_iou")) for scores in (before, after))
    return now if "-" in (was, now) else f"{now} (was {was})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _time(created: str | None) -> str:
    """An ISO time to the minute."""
    return created[:16].replace("T", " ") if created else "-"
