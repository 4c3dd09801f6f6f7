"""A model version as one file, to be carried to another machine: a zip whose members lie as they do in the folder.

    SHA256SUMS                         of every other member, as sha256sum checks them
    <name>/card.json
    <name>/weights.safetensors
    <name>/replay.safetensors          if its card has that one's hash
    parts/<part>-<hash>.safetensors    those that its card names

Nothing is compressed, for weights hardly shrink, so a bundle unpacks to no more than its own size. Of a parent that the
version loads onto there is the name and the hash, both on the card. What comes in may be from anybody: nothing of it is
used before it is checked, and nothing that is there is replaced. Nothing here imports torch.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from av2t_core.errors import Remedy, WeightsError, misfit
from av2t_core.files import (
    atomic_file,
    atomic_folder,
    check_header,
    file_hash,
    read_blocks,
    require_space,
    write_blocks,
    writing,
)
from av2t_core.limits import LARGEST_CARD
from av2t_core.model.presets import PRESETS
from av2t_core.versions.card import Card
from av2t_core.versions.names import CARD_FILE, IMPORT_MARK, check_name, is_reserved_name
from av2t_core.versions.saving import alone
from av2t_core.versions.store import fetch
from av2t_core.versions.version import NAMES, Version, find

SUMS = "SHA256SUMS"

_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")

_Shapes = dict[str, list[int]]  # of tensors, by their names


def export_version(version: Version, target: Path) -> None:
    """Write the bundle `target`. WeightsError: it exists or cannot be written, or the version is not whole."""
    if version.is_built_in:
        raise WeightsError(f"{version.name} ships with the package: whoever installs that has it")
    if target.exists():
        raise WeightsError(f"{target} exists: name another file")
    version.check_files()
    fetch(version)
    for path, _ in version.stored_files:
        if not path.is_file():
            raise version.missing(path)
    card = version.directory / CARD_FILE
    files = {card: file_hash(card), **dict(version.stored_files)}
    try:
        with atomic_file(target) as aside, ZipFile(aside, "w", ZIP_STORED) as archive:
            sums = "".join(f"{sha256}  {version.member(path)}\n" for path, sha256 in files.items())
            archive.writestr(_info(SUMS), sums)
            for path, sha256 in files.items():
                info = _info(version.member(path))
                with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as to:
                    if write_blocks(read_blocks(source), to) != sha256:
                        raise version.damaged(path)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written ({error.strerror}): name a file that can") from None


def import_version(file: Path, models_dir: Path) -> tuple[Version, bool]:
    """The version in the bundle, and whether it is new here: the same one may be there already.

    WeightsError: it is no bundle, damaged, or holds anything else; another version has that name; the parent that it
    loads onto is not there; there is no room.
    """
    try:
        with ZipFile(file) as archive:
            version, card = _read(file, archive, models_dir)
            return version, _place(file, archive, version, card)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror or error})") from None
    except BadZipFile as error:
        raise WeightsError(f"{file} is damaged, or no exported model version ({error}): export it again") from None


def _read(file: Path, archive: ZipFile, models_dir: Path) -> tuple[Version, bytes]:
    """The version as it will be in the folder, and its card. WeightsError: the bundle is not as an export makes it."""
    refused = WeightsError(f"{file} is no exported model version, or somebody has changed it: export it again")
    members = archive.infolist()
    if sum(member.file_size for member in members) > file.stat().st_size or not all(map(_is_plain, members)):
        raise refused
    sums = [_SUM.fullmatch(line) for line in _text(archive, SUMS).decode(errors="replace").splitlines()]
    hashes = {found[2]: found[1] for found in sums if found}
    names = [path.removesuffix(f"/{CARD_FILE}") for path in hashes if path.endswith(f"/{CARD_FILE}")]
    if None in sums or sorted(member.filename for member in members) != sorted([SUMS, *hashes]) or len(names) != 1:
        raise refused
    name = check_name(names[0])
    if is_reserved_name(name):
        raise WeightsError(f"{file} is called {name}, as what this package brings itself: export it under another name")
    text = _text(archive, f"{name}/{CARD_FILE}")
    card = Card.parse_usable(text)
    if card is None or hashes.pop(f"{name}/{CARD_FILE}") != hashlib.sha256(text).hexdigest():
        raise refused
    version = Version(name=name, directory=models_dir / name, card=card)
    if hashes != {version.member(path): sha256 for path, sha256 in version.stored_files}:
        raise refused
    return version, text


def _place(file: Path, archive: ZipFile, version: Version, card: bytes) -> bool:
    """Have the version in its folder; False if it is there already."""
    name, models_dir, base = version.name, version.directory.parent, version.base
    if (preset := version.card.preset) not in PRESETS:
        raise WeightsError(f"{name} is of the preset {preset!r}, which this release does not know: install a newer one")
    if base is not None:
        base.check_files()
        fetch(base)
    with alone(models_dir):
        if (there := find(name, models_dir)) is not None:
            if there.card != version.card:
                raise WeightsError(f"there is another model version {name} already", Remedy.OTHER_FOLDER)
            return False
        if version.directory.exists():
            raise WeightsError(f"{version.directory} exists and is no model version: take it away")
        new = {path: sha256 for path, sha256 in version.stored_files if not path.exists()}
        for path, sha256 in version.stored_files:
            if path not in new and file_hash(path) != sha256:
                raise WeightsError(f"{path} is damaged, or another part of the same name, and stays as it is")
        require_space(models_dir, sum(archive.getinfo(version.member(path)).file_size for path in new), name)
        with writing(models_dir), atomic_folder(version.directory) as aside:
            (aside / CARD_FILE).write_bytes(card)
            (aside / IMPORT_MARK).touch()
            for path, sha256 in new.items():
                member = version.member(path)
                with archive.open(member) as source, (aside / path.name).open("wb") as copy:
                    if write_blocks(read_blocks(source), copy) != sha256:
                        raise WeightsError(f"{member} in {file} is damaged: export it again")
            shapes = {path: _shapes([aside / path.name]) for path in new}
            if base is not None:
                _require_fit(version, shapes[version.weights], _shapes(path for path, _ in base.files))
            for path in new:
                if path.parent != version.directory:
                    (aside / path.name).rename(path)
    return True


def _require_fit(version: Version, shapes: _Shapes, onto: _Shapes) -> None:
    """WeightsError: it holds a tensor that what it loads onto does not have, or has in another shape."""
    learnt = {key: shape for key, shape in shapes.items() if not key.startswith(NAMES)}
    if problems := [f"{key} {shape}" for key, shape in learnt.items() if onto.get(key) != shape]:
        raise misfit(f"{version.card.parent} that {version.name} loads onto", problems)


def _shapes(paths: Iterable[Path]) -> _Shapes:
    """WeightsError: one of the files is damaged, or of another format."""
    from safetensors import SafetensorError, safe_open

    shapes: _Shapes = {}
    for path in paths:
        check_header(path)
        try:
            with safe_open(path, "np") as file:
                shapes |= {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  # no mapping
        except SafetensorError as error:
            raise WeightsError(f"{path.name} is damaged or no file of safetensors ({error})") from None
    return shapes


def _info(name: str) -> ZipInfo:
    info = ZipInfo(name)  # with a date that is always the same, so that two exports of a version are
    info.external_attr = 0o644 << 16
    return info


def _is_plain(member: ZipInfo) -> bool:
    encrypted = member.flag_bits & 1
    return member.compress_type == ZIP_STORED and member.compress_size == member.file_size and not encrypted


def _text(archive: ZipFile, name: str) -> bytes:
    """Nothing where it is not there, or too large."""
    there = name in archive.namelist() and archive.getinfo(name).file_size <= LARGEST_CARD
    return archive.read(name) if there else b""
