"""Files from the model hub, verified, and resumed where an earlier try was cut off.

huggingface_hub asks the hub what there is, and knows endpoint, proxies and the token. The bytes are fetched here, over
plain HTTP. Its own `hf_hub_download` (2.4) deletes what it has when it is interrupted, as does xet. Its `http_get`
could resume, but gives up at once at a 502 or 503.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2  # what huggingface_hub speaks HTTP with; its errors come through
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in __all__

from av2t_core.errors import WeightsError, may_pass
from av2t_core.files import Progress, read_blocks, writing

FIRST_ANSWER = 2.5  # seconds that the hub has to answer at all, whatever keeps it from it
TIMEOUT = httpx2.Timeout(10, read=30)
RETRIES = 4  # in a row without a byte


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository at one commit. Size in bytes and checksum are the hub's word: sha256, or git's sha1 of a
    small text, which lies in git itself; "" where it gives none."""

    repository: str
    revision: str
    name: str
    size: int
    checksum: str


def connect() -> None:
    """WeightsError if the hub does not answer within FIRST_ANSWER seconds.

    Without a network the system may take minutes to say so, and each of the library's retries as long again.
    """
    if constants.is_offline_mode():
        raise _error(OfflineModeIsEnabled())
    failures: list[Exception] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=FIRST_ANSWER, follow_redirects=False)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            failures.append(error)

    # A daemon that nobody waits for any longer: looking up a name cannot be interrupted.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(FIRST_ANSWER)
    if thread.is_alive():
        failures.append(httpx2.ConnectTimeout(f"no answer within {FIRST_ANSWER:g} s"))
    if failures:
        raise _error(failures[0])


def list_files(repository: str) -> list[RemoteFile]:
    """All files at the newest commit. WeightsError."""
    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT.read)
        return [
            RemoteFile(
                repository=repository,
                revision=str(info.sha),
                name=file.rfilename,
                size=file.size or 0,
                checksum=file.lfs.sha256 if file.lfs else file.blob_id or "",
            )
            for file in info.siblings or ()
        ]
    except (httpx2.HTTPError, OSError) as error:
        raise _error(error, repository) from None
    except (ValueError, KeyError, TypeError):
        why = "HF_ENDPOINT may be wrong, or a login page of this network stands before it"
        raise WeightsError(f"{address()} does not answer as a model hub does: {why}") from None


def downloaded(file: RemoteFile, folder: Path) -> int:
    """How many bytes of the file are in `folder` already."""
    return max(_size(folder / file.checksum), _size(folder / f"{file.checksum}.part"))


def download(file: RemoteFile, folder: Path, progress: Progress) -> Path:
    """The verified file in `folder`, under its checksum. WeightsError.

    What an interruption leaves is `<checksum>.part`, with which the next try goes on. `progress` is called for each of
    the steps, with what it does and the number of bytes.
    """
    path, part = folder / file.checksum, folder / f"{file.checksum}.part"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return path
        with progress(f"fetch {file.name}", file.size) as bar:
            bar.update(_size(part))
            _fetch(file, part, bar.update)
        if _size(part) != file.size or _checksum(part, file, progress) != file.checksum:
            part.unlink()
            why = "its size or checksum is another; it was deleted, run the same command again"
            raise WeightsError(f"{file.name} of {file.repository} is not what the hub says it is: {why}")
        return part.rename(path)


def address() -> str:
    """The hub's, without a password that HF_ENDPOINT may hold."""
    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _fetch(file: RemoteFile, part: Path, advance: Callable[[int], object]) -> None:
    """Until the part is as large as the file, through cut connections. WeightsError after RETRIES."""
    failures = 0
    while (have := _size(part)) < file.size:
        reason: Exception = httpx2.ReadError("it sends nothing")
        try:
            _receive(file, part, have, advance)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if isinstance(error, HfHubHTTPError) and not may_pass(error.response.status_code):
                raise _error(error, file.repository, file.name) from None
            reason = error
        if _size(part) >= file.size:
            return
        failures = 0 if _size(part) > have else failures + 1
        if failures > RETRIES:
            raise _error(reason, file.repository, file.name) from None
        time.sleep(2 ** max(failures - 1, 0))


def _receive(file: RemoteFile, part: Path, have: int, advance: Callable[[int], object]) -> None:
    url = hf_hub_url(file.repository, file.name, revision=file.revision)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    # Redirects drop the token where they leave the hub.
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == httpx2.codes.PARTIAL_CONTENT
        if have and not goes_on:
            advance(-have)
        with part.open("ab" if goes_on else "wb") as out:
            for chunk in response.iter_raw():
                out.write(chunk)
                advance(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum(path: Path, file: RemoteFile, progress: Progress) -> str:
    """Of the kind that the file's own is of."""
    is_git = len(file.checksum) < 64
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False) if is_git else hashlib.sha256()
    with path.open("rb") as content, progress(f"check {file.name}", file.size) as bar:
        for block in read_blocks(content, bar):
            digest.update(block)
    return digest.hexdigest()


def _error(error: Exception, repository: str = "", name: str = "") -> WeightsError:
    """What a failed call means for the person who made it; the token is in none of these sentences."""
    hub, page = address(), f"{address()}/{repository}"
    wanted = f"{name} of {repository}" if name else repository
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    match error:
        case OfflineModeIsEnabled():
            said = "HF_HUB_OFFLINE is set, so nothing is fetched from the model hub: unset it"
        case GatedRepoError():
            said = f"{repository} is gated: accept its terms at {page}, then {log_in}"
        case EntryNotFoundError():
            said = f"{repository} holds no {name} any more; see {page}"
        case RepositoryNotFoundError():
            said = f"{hub} has no repository {repository}, or only for those who may see it: look at {page}, and"
            said += f" {log_in} if your account may"
        case HfHubHTTPError() if error.response.status_code == httpx2.codes.UNAUTHORIZED:
            said = f"{hub} does not accept your token for {wanted}"
            said += ": log in again with `hf auth login`, or correct HF_TOKEN"
        case HfHubHTTPError() if error.response.status_code == httpx2.codes.FORBIDDEN:
            said = f"{hub} forbids {wanted}: see {page} for who may have it, and {log_in}"
        case HfHubHTTPError():
            said = f"{hub} answers {error.response.status_code} for {wanted}: run the same command again later"
        case _:
            reason = str(error).rpartition("] ")[2] or type(error).__name__
            said = f"{hub} cannot be reached ({reason}): check the network, HF_ENDPOINT and the proxy, and run the same"
            said += " command again"
    return WeightsError(said)
