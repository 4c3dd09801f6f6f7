"""What is written into the folder of model versions: one writer at a time, and nothing half there.

Besides the versions and their parts (see `version`) it holds `downloads`, files that are being fetched.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from av2t_core.errors import WeightsError
from av2t_core.files import Progress, aside, atomic_folder, file_hash, locked, writing
from av2t_core.model.config import Feature
from av2t_core.versions import published
from av2t_core.versions.card import Card, Part
from av2t_core.versions.names import CARD_FILE, PARTS_FOLDER, WEIGHTS_FILE, part_file, require_new
from av2t_core.versions.store import fetch, quiet
from av2t_core.versions.version import Version, resolve

if TYPE_CHECKING:  # it brings torch, and who has no weights should not wait for that
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """A model version to be made from a published checkpoint. `source` goes onto its card: where it is from."""

    name: str
    preset: str
    feature: Feature
    source: Mapping[str, str]


@contextmanager
def alone(models_dir: Path) -> Iterator[None]:
    """Within it nobody else writes published weights here, and what an interrupted conversion left is gone.

    WeightsError: somebody is at it, or the folder cannot be written.
    """
    parts = models_dir / PARTS_FOLDER
    with writing(models_dir):
        parts.mkdir(parents=True, exist_ok=True)
        try:
            lock = locked(models_dir / ".lock", wait=False)
        except BlockingIOError:
            busy = f"weights are pulled or imported into {models_dir} already: wait until that has ended"
            raise WeightsError(busy) from None
    with lock:
        for left in parts.glob(".*"):
            left.unlink()
        yield


def find_complete(models_dir: Path, name: str, progress: Progress = quiet) -> Version | None:
    """The version of this name if it is in the folder with all its files, which are fetched if a model store has them.

    WeightsError: its card cannot be read. StoreAwayError.
    """
    if not (models_dir / name / CARD_FILE).exists():
        return None
    version = resolve(name, models_dir)
    fetch(version, progress)
    return version if all(path.is_file() for path, _ in version.files) else None


def encoder_parts(models_dir: Path, preset: str) -> dict[str, Part]:
    """The preset's encoders that are in the folder, unharmed, by their kinds."""
    return {
        encoder: Part(file=path.name, sha256=sha256)
        for encoder, source in published.encoders(preset).items()
        for path in sorted((models_dir / PARTS_FOLDER).glob(f"{source.part}-????????.safetensors"))
        if path.name == part_file(source.part, sha256 := file_hash(path))
    }


def save_encoder(models_dir: Path, file: str, kind: str, state: "Mapping[str, Tensor]") -> Part:
    """A published encoder as a part. `file` is what errors call it. WeightsError: it does not fit the encoder."""
    from av2t_core.versions.conversion import encoder_tensors

    part, tensors = encoder_tensors(file, kind, state)
    return save_part(models_dir, part, tensors)


def save_model(
    models_dir: Path,
    file: str,
    kind: str,
    state: "Mapping[str, Tensor]",
    version: NewVersion,
    encoders: Mapping[str, Part],
) -> None:
    """A published model, or EVF-SAM as a start, as a version; `encoders` are the parts of its preset's.

    WeightsError: it does not fit the preset, or there is a version of that name.
    """
    from av2t_core.versions.conversion import split_model

    own, shared = split_model(file, kind, state, version.preset, version.feature)
    part = save_part(models_dir, published.start(version.preset).part, shared)
    card: dict[str, Any] = {
        "preset": version.preset,
        "feature": version.feature,
        "labels": [],
        "parent": None,
        "parts": [part, *(encoders[encoder] for encoder in published.encoders(version.preset))],
        "start": kind != published.MODEL,
        "source": dict(version.source),
    }
    save_version(models_dir / version.name, card, own)


def save_version(
    directory: Path, card: Mapping[str, Any], tensors: "Mapping[str, Tensor]", beside: Sequence[Path] = ()
) -> None:
    """Written aside and renamed into place. The hash of a parent that it loads onto goes onto its card.

    `beside`: files of which copies are to lie beside the weights. WeightsError: the directory exists or cannot be
    written, or that parent does not exist.
    """
    require_new(directory)
    with writing(directory.parent), atomic_folder(directory) as made:
        card = {**card, "sha256": _save(made / WEIGHTS_FILE, tensors)}
        version = Version(name=directory.name, directory=directory, card=Card.parse(_text(card)))
        if version.base is not None:
            card["parent_sha256"] = version.base.card.sha256
        (made / CARD_FILE).write_bytes(_text(card))
        for file in beside:
            shutil.copyfile(file, made / file.name)


def save_part(models_dir: Path, name: str, tensors: "Mapping[str, Tensor]") -> Part:
    """Tensors that versions share, named by their content. Returns what goes into the cards' `parts`."""
    folder = models_dir / PARTS_FOLDER
    with writing(models_dir):
        folder.mkdir(parents=True, exist_ok=True)
        with aside(folder / name, several=True) as made:  # two trainings may end at the same time
            sha256 = _save(made, tensors)
            file = part_file(name, sha256)
            made.rename(folder / file)
    return Part(file=file, sha256=sha256)


def _text(card: Mapping[str, Any]) -> bytes:
    text = json.dumps(card, indent=2, ensure_ascii=False, default=lambda fields: fields.as_json())
    return f"{text}\n".encode()


def _save(path: Path, tensors: "Mapping[str, Tensor]") -> str:
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    path.chmod(0o644)  # whoever may read the folder may read its weights
    return file_hash(path)
