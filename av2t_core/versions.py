"""Model versions: a directory with the weights and a card; its name is the `model_version` that Label Studio sees.

    <name>/weights.safetensors   what was trained, in half precision
    <name>/card.json             preset, labels, parent, data, settings, metrics, the weights' hash

A version is written aside and renamed into place, and never changed afterwards. Nothing here imports torch: the
backend only asks for names.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from av2t_core.errors import WeightsError

BUILT_IN = Path(__file__).parent / "weights"
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Version:
    name: str
    directory: Path
    card: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.directory / "weights.safetensors"


def resolve(name: str, models_dir: Path | None = None) -> Version:
    """The version of this name, or the newest built-in one of the preset of this name.

    `models_dir`: where a worker keeps the versions that it trained; looked into before the built-in ones.
    WeightsError: there is none, or its card cannot be read; the message names what there is.
    """
    check_name(name)
    for root in (models_dir, BUILT_IN):
        if root is not None and (root / name / "card.json").is_file():
            return _read(root / name)
    of_preset = [version for version in map(_read, _directories(BUILT_IN)) if version.card["preset"] == name]
    if of_preset:
        return max(of_preset, key=lambda version: _natural(version.name))
    known = [path.name for root in (models_dir, BUILT_IN) if root is not None for path in _directories(root)]
    raise WeightsError(f"there is no model version {name!r}; there are {', '.join(known) or 'none'}")


def check_name(name: str) -> str:
    """The name itself, which is safe as a folder's. WeightsError if it cannot be a model version's."""
    if not NAME.fullmatch(name):
        raise WeightsError(f"{name!r} is no model version: a name is of a-z, 0-9, '_', '.' and '-'")
    return name


def _directories(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/card.json"))


def _natural(name: str) -> list[tuple[int, str]]:
    """tiny-10 comes after tiny-9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read(directory: Path) -> Version:
    path = directory / "card.json"
    try:
        card = json.loads(path.read_text())
        card["preset"], card["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is no card of a model version: {error}") from error
    return Version(name=directory.name, directory=directory, card=card)
