"""`av2t weights list`: which weights there are, and how the others are got."""

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from av2t.console import note, table
from av2t_core.errors import WeightsError
from av2t_core.files import in_gigabytes
from av2t_core.versions import published
from av2t_core.versions.names import DOWNLOADS_FOLDER, PARTS_FOLDER
from av2t_core.versions.version import BUILT_IN, Version, damaged, installed


def show(args: argparse.Namespace, models_dir: Path) -> None:
    """Print it."""
    found = _overview(models_dir)
    print(json.dumps(found, indent=2) if args.json else "\n".join(_lines(found)))
    for sentence in damaged(models_dir).values():
        note(sentence)


def _overview(models_dir: Path) -> dict[str, Any]:
    versions = installed(models_dir)
    users: dict[str, list[str]] = {path.name: [] for path in sorted((models_dir / PARTS_FOLDER).glob("*.safetensors"))}
    for version in versions:
        for part in version.card.parts:
            users.setdefault(part.file, []).append(version.name)
    # What somebody trained is no published model.
    models = {version.card.preset for version in versions if version.card.is_fresh}
    downloads = [path for path in (models_dir / DOWNLOADS_FOLDER).glob("*") if path.is_file()]
    return {
        "directory": str(models_dir),
        "versions": [_version(version) for version in versions],
        "parts": [
            {"file": file, "bytes": _size(models_dir / PARTS_FOLDER / file), "versions": names}
            for file, names in users.items()
        ],
        "missing": [_missing(preset) for preset in published.presets() if preset not in models],
        "downloads": {"directory": str(models_dir / DOWNLOADS_FOLDER), "bytes": sum(map(_size, downloads))},
    }


def _missing(preset: str) -> dict[str, Any]:
    known = published.is_known(preset)
    return {
        "preset": preset,
        "published": known,
        "gigabytes": round(published.gigabytes(preset, only_start=not known), 1),
        "command": f"av2t weights pull {preset}{'' if known else ' --start'}",
    }


def _version(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "preset": version.card.preset,
        "kind": "start" if version.card.start else "model",
        "bytes": _size(version.weights),
        "parts": [part.file for part in version.card.parts],
        "lacks": _lacking(version),
        "in_store": version.in_store,
        "built_in": version.directory.parent == BUILT_IN,
        "parent": version.card.parent,
        "source": version.card.source or None,
    }


def _lacking(version: Version) -> list[str]:
    """The files that it should have and has not, and the parent that it loads onto if that is gone."""
    missing = [str(path) for path, _ in version.own_files if not path.is_file() and not version.in_store]
    with suppress(WeightsError):
        _ = version.base
        return missing
    return [*missing, str(version.directory.with_name(str(version.card.parent)))]


def _size(path: Path) -> int | None:
    """None where it is missing."""
    return path.stat().st_size if path.exists() else None


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"Weights in {found['directory']}"]
    lines += table("Model versions", [_row(version) for version in found["versions"]])
    parts = [[part["file"], _shown(part["bytes"]), _users(part["versions"])] for part in found["parts"]]
    lines += table("Parts that versions share", parts)
    missing = [
        [m["preset"], f"about {m['gigabytes']:.0f} GB", f"`{m['command']}`", "" if m["published"] else "to train from"]
        for m in found["missing"]
    ]
    lines += table("Not here yet", missing)
    if size := found["downloads"]["bytes"]:
        kept = f"Fetched and not converted: {in_gigabytes(size)} in {found['downloads']['directory']}"
        lines += ["", f"{kept}; the same pull goes on with it"]
    return lines


def _row(version: dict[str, Any]) -> list[str]:
    lacks = [f"lacks {Path(path).name}" for path in version["lacks"]]
    if version["parent"]:
        origin = f"trained from {version['parent']}"
    else:
        origin = "ships with the package" if version["built_in"] else (version["source"] or {}).get("command", "")
    size = "in the store" if version["bytes"] is None and version["in_store"] else _shown(version["bytes"])
    return [version["name"], version["kind"], size, "; ".join([*lacks, origin])]


def _shown(size: int | None) -> str:
    return "missing" if size is None else in_gigabytes(size)


def _users(versions: list[str]) -> str:
    return f"of {', '.join(versions)}" if versions else "of no version"
