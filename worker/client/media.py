"""A task's clip from wherever its data say that it is: Label Studio, a storage of the project, any web server, a cache.

Failures are AV2TError, mostly MediaError, or TransientError where they may pass. No message carries a token, a header
or the query of a URL, which may hold a signature.
"""

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from av2t_core.errors import MediaError, may_pass
from av2t_core.files import atomic_file
from av2t_core.limits import FETCH_SECONDS, SHOWN_URL
from worker.client.api import TIMEOUT, Api, own_words, reason, retry_after
from worker.client.transport import PORTS, Bounds, ForbiddenAddressError, Places, transport
from worker.failures import DoubtfulError, TransientError
from worker.queue import heartbeat
from worker.settings import Settings

CLOUD_SCHEMES = {"s3", "gs", "azure-blob"}
REDIRECTS = 5


@dataclass(frozen=True)
class ClipCache:
    """Files below `folder`, `limit` bytes together; several processes may share one."""

    folder: Path
    limit: int

    def take(self, key: str, target: Path) -> bool:
        """Whether it holds that clip; if so, the clip is now also at `target`, whatever is dropped here later."""
        with suppress(OSError):
            _link(self.folder / key, target)
            os.utime(self.folder / key)
            return True
        return False

    def put(self, key: str, clip: Path) -> None:
        """Store a copy, and drop the least recently used clips until all fit. On a full disk nothing is stored."""
        if clip.stat().st_size > self.limit:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.folder / key, several=True) as copy:
                _link(clip, copy)
        self._drop()

    def _drop(self) -> None:
        found = []
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):  # another process may have dropped it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        free = self.limit - sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if free >= 0:
                return
            path.unlink(missing_ok=True)
            free += size


class Media:
    """Streams clips to disk. Label Studio's key goes to Label Studio alone."""

    def __init__(self, api: Api, settings: Settings, cache: ClipCache | None) -> None:
        self._api, self._cache = api, cache
        self._max_clip = settings.max_clip_mb * 10**6
        self._bounds = Bounds(seconds=FETCH_SECONDS, size=self._max_clip + 10**6)
        _, host, port = _origin(api.url)
        self._places = Places(own=(host, port), networks=settings.clip_networks)

    def fetch(self, url: str, task: int, target: Path) -> None:
        """Bring the clip at `url`, as it stands in the data of `task`, to the file `target`, from the cache if it can.

        Its server is asked in any case: whether it is still there, whether it may be read, and whether it has changed.
        """
        with self._open(url, task) as response:
            # Behind the address that the task has, with its query, which may say which clip of many; what it leads to
            # has a signature, another one each time.
            address = f"{url}\n{_named(str(response.url))}"
            key = content_key(address, response.headers) if self._cache else None
            if self._cache and key and self._cache.take(key, target):
                return
            self._save(response, _shown(url), target)
        if self._cache and key:
            self._cache.put(key, target)

    def probe(self, url: str, task: int) -> None:
        """Raise what `fetch` would, without reading the clip."""
        with self._open(url, task):
            pass

    @contextmanager
    def _open(self, url: str, task: int) -> Iterator[httpx.Response]:
        """The answer that holds the clip, still to be read, behind any redirects."""
        try:
            shown = _shown(url)
            address = self._address(url, task)
            # A redirect that comes back to Label Studio may be another server's wish to have its key used.
            own = True
            for _ in range(REDIRECTS):
                own = own and _origin(address) == _origin(self._api.url)
                with self._get(address, own) as response:
                    if not response.has_redirect_location:
                        self._check(response, shown, own)
                        yield response
                        return
                    address = urljoin(address, response.headers["location"])
                    if urlsplit(address).scheme not in PORTS:
                        raise MediaError(f"The clip at {shown} redirects to something that is no web address.")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):  # whose text may repeat a password
            raise MediaError(f"The address of task {task}'s clip is no URL that can be used; correct it.") from None
        except httpx.TransportError as error:
            raise TransientError(f"The clip at {shown} cannot be fetched now ({reason(error)}).") from None
        except ForbiddenAddressError:
            raise MediaError(
                f"The clip at {shown} is not on the public internet, and the worker fetches none from other networks"
                " than those in AV2T_CLIP_NETWORKS; upload the clip, or have its network added there."
            ) from None
        raise MediaError(f"The clip at {shown} redirects more than {REDIRECTS} times; correct the task's URL.")

    @contextmanager
    def _get(self, address: str, own: bool) -> Iterator[httpx.Response]:
        headers = {"Accept-Encoding": "identity"}
        if own:
            headers["Authorization"] = self._api.authorization()
            # Label Studio tells the length of a range alone, and without it a file that is cut off looks whole. What it
            # hands on from a storage comes with its length, and as a range would be cut at 8 MB.
            if "/data/" in urlsplit(address).path:
                headers["Range"] = "bytes=0-"
        # A client for each request, so that no cookie of one host reaches another.
        with (
            httpx.Client(timeout=TIMEOUT, transport=transport(address, self._bounds, self._places)) as http,
            http.stream("GET", address, headers=headers) as response,
        ):
            yield response

    def _address(self, url: str, task: int) -> str:
        scheme, shown = urlsplit(url).scheme, _shown(url)
        if not shown:
            raise ValueError("it has no path")
        if scheme in {"http", "https"}:
            return url
        if scheme in CLOUD_SCHEMES:
            uri = base64.urlsafe_b64encode(url.encode()).decode()
            return f"{self._api.url}/tasks/{task}/presign/?fileuri={uri}"
        if url.startswith("//"):  # of another host, as browsers take it
            return urljoin(self._api.url, url)
        if url.startswith("/"):
            # Below a path prefix Label Studio writes its own URLs with the prefix.
            prefix = urlsplit(self._api.url).path
            return self._api.url + url.removeprefix(prefix)
        raise MediaError(
            f'The clip of task {task} is given as "{shown}"; upload it, or give an http(s) URL or the '
            "URI of a storage that the project has."
        )

    def _check(self, response: httpx.Response, shown: str, own: bool) -> None:
        if response.status_code == 206:
            if not _is_whole(response.headers.get("content-range", "")):
                raise TransientError(f"The server of {shown} gives a part of the clip only.")
        elif response.status_code != 200:
            raise self._refusal(response, shown, own)
        kind = response.headers.get("content-type", "")
        for prefix, what in (("application/json", "JSON"), ("text/html", "a web page")):
            if kind.startswith(prefix):
                raise DoubtfulError(f"At {shown} there is {what} and no clip; correct the task's URL.")
        if int(response.headers.get("content-length", 0)) > self._max_clip:
            raise self._too_large(shown)

    def _save(self, response: httpx.Response, shown: str, target: Path) -> None:
        size = 0
        with target.open("wb") as file:
            for chunk in response.iter_bytes():
                heartbeat.beat()
                size += len(chunk)
                if size > self._max_clip:
                    raise self._too_large(shown)
                file.write(chunk)

    def _too_large(self, shown: str) -> MediaError:
        limit = f"{self._max_clip // 10**6} MB"
        return MediaError(f"The clip at {shown} is larger than {limit}; raise AV2T_MAX_CLIP_MB or shorten it.")

    def _refusal(self, response: httpx.Response, shown: str, own: bool) -> Exception:
        status, said = response.status_code, own_words(response) if own else None
        no_clip = f"There is no clip at {shown}; bring it there again or correct the task's URL."
        if said is not None and status == 401:
            return self._api.key_refused(said)
        # Label Studio 1.23 answers 500 for an upload that it does not know.
        if said is not None and (status in {404, 410} or (status == 500 and "has_permission" in said)):
            return MediaError(no_clip)
        if may_pass(status):
            return TransientError(f"The server of {shown} answers {status}.", retry_after(response.headers))
        if own and "/data/local-files/" in shown:
            return DoubtfulError(_LOCAL_FILES.get(status, _REFUSED).format(shown=shown, status=status))
        if status in {404, 410}:
            return DoubtfulError(no_clip)
        sentence = _REFUSED.format(shown=shown, status=status)
        return DoubtfulError(sentence) if said is None else MediaError(sentence)


_REFUSED = "The server of {shown} refuses the clip ({status}); the worker must be allowed to read it."
_LOCAL_FILES = {
    403: (
        "Label Studio does not serve {shown}: start it with LOCAL_FILES_SERVING_ENABLED=true and connect the folder to"
        " the project as a local storage."
    ),
    404: (
        "There is no clip at {shown}, or no storage that holds it; bring it there again, or connect its folder to the"
        " project as a local storage."
    ),
}


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def _is_whole(content_range: str) -> bool:
    """Whether that header, as in "bytes 0-99/100", is of all there is."""
    found = re.fullmatch(r"bytes 0-(\d+)/(\d+)", content_range)
    return found is not None and int(found[1]) + 1 == int(found[2])


def _named(url: str) -> str:
    """The URL without user, password and query, but with what names a local file, as people write it."""
    parts = urlsplit(url)
    host = f"//{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    name = parse_qs(parts.query).get("d", []) if parts.path.endswith("/data/local-files/") else []
    return f"{scheme}{host}{parts.path}{f'?d={name[0]}' if name else ''}"


def _shown(url: str) -> str:
    name = _named(url)
    return name if len(name) <= SHOWN_URL else f"{name[:SHOWN_URL]}…"


def content_key(address: str, headers: Mapping[str, str]) -> str | None:
    """What names the content behind an address, by the headers of its server; None where they do not say enough.

    Another content behind one address has another time or tag.
    """
    seen = httpx.Headers(headers)
    mark = seen.get("etag") or seen.get("last-modified")
    if not mark or "content-length" not in seen:
        return None
    return hashlib.sha256("\n".join([address, mark, seen["content-length"]]).encode()).hexdigest()


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the folders are on two disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
