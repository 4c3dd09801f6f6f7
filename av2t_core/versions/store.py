"""The model store: versions, their parts and the projects' pointers in a folder or an object store, for many machines.

They lie there as in the folder of model versions (see `versions`), which stays what everything reads: it is a mirror of
the store (see `mirror`) that holds of a version no more than the card until its weights are wanted. An object store
cannot rename, so a version's card is written last and taken away first: what has no card is not there. Nothing but the
pointers is ever written over.

Nothing here imports torch, and fsspec, which reaches the storage, only once a store is used. The storage's credentials
come from the environment, in the variables of its own package.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import IO, Any

from av2t_core.errors import AV2TError, Remedy, StoreAwayError, WeightsError
from av2t_core.files import (
    Bar,
    Progress,
    aside,
    atomic_file,
    file_hash,
    locked,
    read_blocks,
    read_plain,
    require_space,
    write_blocks,
    writing,
)
from av2t_core.limits import LARGEST_CARD
from av2t_core.versions.card import Card
from av2t_core.versions.names import CARD_FILE, PARTS_FOLDER, STORE_MARK
from av2t_core.versions.version import Version

FETCHING = ".fetching"
"""The folder beside the versions in which files are until they are whole."""


class _NoBar:
    def update(self, n: int, /) -> None:
        pass


def quiet(_what: str, _total: int) -> nullcontext[Bar]:
    return nullcontext(_NoBar())


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file in the store. `stamp`: another one where its content is another."""

    size: int
    stamp: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What lies beside the card of a version that is in a store: in which one, and the card's stamp there."""

    url: str
    stamp: str


@dataclass(frozen=True)
class Store:
    """`url`: any that fsspec opens, without a password.

    Every method raises StoreAwayError where the storage does not answer, and WeightsError where it cannot be used.
    """

    url: str

    def listing(self) -> dict[str, Entry]:
        """All files, by their paths in it."""
        with self._asking() as files:
            files.fs.invalidate_cache()
            found = files.find("", detail=True)
            files.fs.invalidate_cache()
        return {member: _entry(known) for member, known in found.items()}

    def read(self, member: str) -> bytes | None:
        """A text that is there, None if it is not. WeightsError: it is larger than a card ever is."""
        with self._asking(member) as files:
            try:
                with files.open(member, "rb") as file:
                    text: bytes = file.read(LARGEST_CARD + 1)
            except FileNotFoundError:
                return None
        if len(text) > LARGEST_CARD:
            raise WeightsError(f"{member} in the model store {self.url} is too large for what it is")
        return text

    def write(self, member: str, content: IO[bytes], bar: Bar | None = None) -> None:
        """Have it there at once, in place of what may be there."""
        with self._asking(member) as files:
            to = member
            folders = not files.fs.async_impl  # which an object store does not have; there files appear at once
            if folders:
                folder = PurePosixPath(member).parent
                files.makedirs(str(folder), exist_ok=True)
                to = str(folder / f".{token_hex(8)}.part")
            with files.open(to, "wb") as file:
                file.writelines(read_blocks(content, bar))
            if folders:
                files.mv(to, member)

    def write_text(self, member: str, text: bytes) -> None:
        self.write(member, BytesIO(text))

    def remove(self, members: Iterable[str]) -> None:
        """One after the other; some may be gone already."""
        for member in members:
            with self._asking(member) as files, suppress(FileNotFoundError):
                files.rm_file(member)

    def has(self, version: Version) -> bool:
        """As far as it is known here. WeightsError: what notes it is damaged."""
        return (mark := mark_of(version.directory)) is not None and mark.url == self.url

    def check(self) -> None:
        """Whether it can be listed and written."""
        self.listing()
        probe = f".{token_hex(8)}"
        self.write_text(probe, b"a check")
        self.remove([probe])

    def push(self, version: Version, progress: Progress = quiet) -> None:
        """Have the version there with all that it loads onto, but for what ships with the package.

        What is there stays as it is, so a push that was cut off goes on. WeightsError: another version of that name is
        there, or this one is not whole.
        """
        there = self.listing()
        for each in reversed(version.chain):
            if not each.is_built_in:
                self._push(each, there, progress)

    def _push(self, version: Version, there: dict[str, Entry], progress: Progress) -> None:
        card = version.directory / CARD_FILE
        committed = version.member(card) in there
        if committed and Card.parse_usable(self.read(version.member(card)) or b"") != version.card:
            other = f"the model store {self.url} has another model version {version.name} than {version.directory}"
            remedy = "give this one another name, or delete one of the two"
            raise WeightsError(f"{other}: a version is never changed; {remedy}")
        lacking = []
        for path, sha256 in version.stored_files:
            # Weights without a card are of a push that was cut off, perhaps of others.
            trusted = committed or path.parent.name == PARTS_FOLDER
            known = there.get(version.member(path)) if trusted else None
            if not path.is_file() and known is None:
                raise version.missing(path)
            if path.is_file() and (known is None or known.size != path.stat().st_size):
                lacking.append((path, sha256))
        for path, sha256 in lacking:
            if file_hash(path) != sha256:
                raise version.damaged(path)
            with progress(f"push {version.member(path)}", path.stat().st_size) as bar, path.open("rb") as file:
                self.write(version.member(path), file, bar)
        if not committed:
            self.write_text(version.member(card), card.read_bytes())
        self.mark(version.name, version.directory)

    def mark(self, name: str, directory: Path) -> None:
        """Note beside the card of the version of this name that it is there.

        The card gets the time that it has there, for the newest version of a preset is the same one on all machines.
        """
        member, modified = f"{name}/{CARD_FILE}", None
        with self._asking(member) as files:
            entry = _entry(files.info(member))
            with suppress(NotImplementedError):
                modified = files.modified(member).timestamp()
        with writing(directory), atomic_file(directory / STORE_MARK) as aside:
            aside.write_text(json.dumps(asdict(Mark(url=self.url, stamp=entry.stamp))))
            if modified is not None:
                os.utime(directory / CARD_FILE, (modified, modified))

    def blocks(self, member: str, bar: Bar) -> Iterator[bytes]:
        """What is in a file. StoreAwayError, also where there is none."""
        with self._asking(member) as files, files.open(member, "rb") as file:
            yield from read_blocks(file, bar)

    def size(self, member: str) -> int:
        """In bytes. StoreAwayError, also where there is no such file."""
        with self._asking(member) as files:
            return int(files.size(member))

    @cached_property
    def _files(self) -> Any:
        """The file system whose root is the store. WeightsError: there is no package for such a URL."""
        try:
            from fsspec.core import url_to_fs
            from fsspec.implementations.dirfs import DirFileSystem

            files, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            package = " (av2t-sam's extra [s3] brings it)" if self.url.startswith("s3:") else ""
            said = f"the model store {self.url} cannot be opened: {error}{package}"
            raise WeightsError(said, Remedy.STORE_URL) from None
        return DirFileSystem(root, files)

    @contextmanager
    def _asking(self, member: str = "") -> Iterator[Any]:
        """The file system. What it has against being used becomes a sentence, and whether that may pass."""
        try:
            yield self._files
        except AV2TError:
            raise
        except FileNotFoundError as error:
            # A card promised it: a proxy before the storage may say so, or it is being pushed anew.
            if member:
                raise StoreAwayError(f"the model store {self.url} has no {member}") from None
            raise WeightsError(f"the model store {self.url} is not there ({_line(error)})") from None
        except Exception as error:  # each storage's package has errors of its own
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                where = "in the variables of the storage's own package, AWS_ACCESS_KEY_ID and so on"
                refuses = f"the model store {self.url} refuses ({_line(error)})"
                raise WeightsError(f"{refuses}: its credentials come from the environment, {where}") from None
            remedy = "see that it runs, and that its URL and the storage's own variables are right"
            raise StoreAwayError(f"the model store {self.url} cannot be reached ({_line(error)}): {remedy}") from None


def mark_of(directory: Path) -> Mark | None:
    """None if the version is in no store. WeightsError: what notes it is damaged."""
    path = directory / STORE_MARK
    try:
        return Mark(**json.loads(read_plain(path, LARGEST_CARD)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} does not say in which model store the version is ({error}): delete it") from None


def fetch(version: Version, progress: Progress = quiet) -> None:
    """Bring here what a store has of the version, or of what it loads onto, and this machine has not: once, however
    many ask for it. Where nothing is missing no store is asked.

    WeightsError: it is damaged there, or there is no room here. StoreAwayError, also where it is not there.
    """
    if not _lacking(version):
        return
    models_dir = version.directory.parent
    with writing(models_dir):
        (models_dir / FETCHING).mkdir(exist_ok=True)
        with _lock(models_dir / FETCHING / "lock", progress):
            lacking = _lacking(version)  # another process may have brought it meanwhile
            sizes = [store.size(member) for store, member, _, _ in lacking]
            require_space(models_dir, sum(sizes), version.name)
            for (store, member, path, sha256), size in zip(lacking, sizes, strict=True):
                with progress(f"fetch {member}", size) as bar, aside(models_dir / FETCHING / sha256) as part:
                    with part.open("wb") as file:
                        found = write_blocks(store.blocks(member, bar), file)
                        os.fsync(file.fileno())  # a rename may reach the disk before what it names
                    if found != sha256:
                        said = f"{member} is damaged in the model store {store.url}: its sha256 is not the one on the"
                        raise WeightsError(f"{said} card", Remedy.PUSH_WHOLE, name=version.name)
                    path.parent.mkdir(exist_ok=True)
                    part.replace(path)


def _lacking(version: Version) -> list[tuple[Store, str, Path, str]]:
    """From which store what is to come, to which place, and its sha256."""
    return [
        (Store(mark.url), each.member(path), path, sha256)
        for each in version.chain
        if (mark := mark_of(each.directory))
        for path, sha256 in each.stored_files
        if not path.is_file()
    ]


def _lock(path: Path, progress: Progress) -> IO[bytes]:
    """So that no other process of this machine fetches. Who waits says so: a worker's job has to give signs."""
    with suppress(BlockingIOError):
        return locked(path, wait=False)
    with progress("wait for another process that fetches", 0) as bar:
        while True:
            bar.update(0)
            time.sleep(0.2)
            with suppress(BlockingIOError):
                return locked(path, wait=False)


def _entry(known: dict[str, Any]) -> Entry:
    """By whatever the storage has that changes with the content."""
    told = [known.get(name) for name in ("ETag", "etag", "md5Hash", "mtime")]
    return Entry(size=int(known["size"] or 0), stamp=repr((known["size"], *told)))


def _line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
