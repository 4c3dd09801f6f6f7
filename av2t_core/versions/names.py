"""What model versions and their files are called: made and read here, and nowhere else.

A version that a project's training made is called <root of its chain>-p<project>-<training>: small-1-p3-7.
"""

import re
from pathlib import Path

from av2t_core.errors import WeightsError
from av2t_core.model.presets import PRESETS
from av2t_core.versions import published

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"
REPLAY_FILE = "replay.safetensors"
STORE_MARK = ".store"
IMPORT_MARK = ".imported"
PARTS_FOLDER = "parts"
PROJECTS_FOLDER = "projects"
DOWNLOADS_FOLDER = "downloads"

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_POINTER = re.compile(rf"{PROJECTS_FOLDER}/([1-9][0-9]{{0,17}})\.json")
_TENSORS = re.compile(rf"{PARTS_FOLDER}/[^/]+\.safetensors|[^/]+/({re.escape(WEIGHTS_FILE)}|{re.escape(REPLAY_FILE)})")


def check_name(name: str) -> str:
    """The name itself, which is safe as a folder's. WeightsError if it cannot be a model version's."""
    if not is_name(name):
        why = "a folder beside them is called so" if NAME.fullmatch(name) else "a name is of a-z, 0-9, '_', '.' and '-'"
        raise WeightsError(f"{name!r} is no model version: {why}")
    return name


def require_new(directory: Path) -> None:
    """WeightsError: there is a model version in it."""
    if directory.exists():
        raise WeightsError(f"{directory} exists; a model version is never changed, choose another name")


def is_name(name: str) -> bool:
    return bool(NAME.fullmatch(name)) and name not in (PARTS_FOLDER, DOWNLOADS_FOLDER, PROJECTS_FOLDER)


def fine_tuned_name(root: str, project: int, training: int) -> str:
    """WeightsError: it would be too long."""
    return check_name(f"{root}-p{project}-{training}")


def set_aside_name(name: str, sha256: str) -> str:
    """Of this machine's own version, where the model store has another one of its name."""
    return f"{name[:80]}.here-{sha256[:8]}"


def is_shipped_name(name: str, preset: str) -> bool:
    """Whether the package ships, shipped or will ship versions of the preset under such names, as small-1."""
    return preset not in published.presets() and bool(re.fullmatch(rf"{re.escape(preset)}-\d+", name))


def is_reserved_name(name: str) -> bool:
    """Whether it is a preset's, or one that this package may ship."""
    return any(name == preset or is_shipped_name(name, preset) for preset in PRESETS)


def is_for_tests(name: str) -> bool:
    """Whether it is a preset's, or a version's, whose weights lie in the repository alone."""
    return any(each.for_tests and (name == preset or is_shipped_name(name, preset)) for preset, each in PRESETS.items())


def part_file(name: str, sha256: str) -> str:
    """By its content, so that the same part is kept once."""
    return f"{name}-{sha256[:8]}.safetensors"


def is_part_file(file: str, sha256: str) -> bool:
    return bool(re.fullmatch(rf"{NAME.pattern}-{sha256[:8]}\.safetensors", file))


def pointer_file(project: int) -> str:
    return f"{PROJECTS_FOLDER}/{project}.json"


def project_of(member: str) -> int | None:
    """The project of a pointer's path in the folder of versions, None if it is no pointer's."""
    found = _POINTER.fullmatch(member)
    return int(found[1]) if found else None


def is_of_versions(member: str) -> bool:
    """Whether a path in a model store is that of weights, a replay or a part."""
    return bool(_TENSORS.fullmatch(member))
