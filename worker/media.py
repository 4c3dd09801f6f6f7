"""A task's clip from wherever its data say that it is: Label Studio, a storage of the project, or any web server.

Failures are AV2TError, mostly MediaError, or TransientError where they may pass. No message carries a token, a header
or the query of a URL, which may hold a signature.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from av2t_core.errors import MediaError
from worker import signs
from worker.answers import TIMEOUT, TRANSIENT, detail, reason, retry_after
from worker.clip_cache import ClipCache, content_key
from worker.failures import TransientError

CLOUD_SCHEMES = {"s3", "gs", "azure-blob"}
REDIRECTS = 5


class Media:
    """Streams clips to disk. Label Studio's key goes to Label Studio alone."""

    def __init__(
        self,
        studio: str,
        authorization: Callable[[], str],
        refused: Callable[[str], Exception],
        *,
        max_clip_mb: int,
        cache: ClipCache | None,
    ) -> None:
        """`studio`: Label Studio's URL; `refused` makes the error of its reason for not taking the key."""
        self._studio, self._authorization, self._refused = studio, authorization, refused
        self._max_clip = max_clip_mb * 10**6
        self._cache = cache

    def fetch(self, url: str, task: int, target: Path) -> None:
        """Bring the clip at `url`, as it stands in the data of `task`, to the file `target`, from the cache if it can.

        Its server is asked in any case: whether it is still there, whether it may be read, and whether it has changed.
        """
        with self._open(url, task) as response:
            key = content_key(_shown(str(response.url)), response.headers) if self._cache else None
            if self._cache and key and self._cache.take(key, target):
                return
            self._save(response, _shown(url), target)
        if self._cache and key:
            self._cache.put(key, target)

    def probe(self, url: str, task: int) -> None:
        """Whether `fetch` would begin: it raises what that would, without reading the clip."""
        with self._open(url, task):
            pass

    @contextmanager
    def _open(self, url: str, task: int) -> Iterator[httpx.Response]:
        """The answer that holds the clip, still to be read, behind any redirects."""
        try:
            shown = _shown(url)
            address = self._address(url, task)
            for _ in range(REDIRECTS):
                with _get(address, self._headers(address)) as response:
                    if not response.has_redirect_location:
                        self._check(response, shown)
                        yield response
                        return
                    address = urljoin(address, response.headers["location"])
                    if urlsplit(address).scheme not in {"http", "https"}:
                        raise MediaError(f"The clip at {shown} redirects to something that is no web address.")
        except (httpx.InvalidURL, ValueError) as error:
            raise MediaError(f"The address of task {task}'s clip cannot be used ({error}); correct it.") from None
        except httpx.TransportError as error:
            raise TransientError(f"The clip at {shown} cannot be fetched now ({reason(error)}).") from None
        raise MediaError(f"The clip at {shown} redirects more than {REDIRECTS} times; correct the task's URL.")

    def _address(self, url: str, task: int) -> str:
        scheme = urlsplit(url).scheme
        if scheme in {"http", "https"}:
            return url
        if scheme in CLOUD_SCHEMES:
            uri = base64.urlsafe_b64encode(url.encode()).decode()
            return f"{self._studio}/tasks/{task}/presign/?fileuri={uri}"
        if url.startswith("/"):
            # Below a path prefix Label Studio writes its own URLs with the prefix.
            prefix = urlsplit(self._studio).path
            return self._studio + url.removeprefix(prefix)
        raise MediaError(
            f'The clip of task {task} is given as "{_shown(url)}"; upload it, or give an http(s) URL or the '
            "URI of a storage that the project has."
        )

    def _headers(self, address: str) -> dict[str, str]:
        """The key is for Label Studio alone, wherever a task's data or a redirect points."""
        headers = {"Accept-Encoding": "identity"}
        if _origin(address) == _origin(self._studio):
            headers["Authorization"] = self._authorization()
            # Label Studio tells the length of a range alone, and without it a file that is cut off looks whole. What it
            # hands on from a storage comes with its length, and as a range would be cut at 8 MB.
            if "/data/" in urlsplit(address).path:
                headers["Range"] = "bytes=0-"
        return headers

    def _check(self, response: httpx.Response, shown: str) -> None:
        if response.status_code == 206:
            if not _is_whole(response.headers.get("content-range", "")):
                raise TransientError(f"The server of {shown} gives a part of the clip only.")
        elif response.status_code != 200:
            response.read()
            own = _origin(str(response.url)) == _origin(self._studio)
            raise self._media_failure(response, shown, own)
        kind = response.headers.get("content-type", "")
        if kind.startswith("application/json"):
            raise TransientError(f"At {shown} there is JSON and no clip, as where a server is not itself.")
        if kind.startswith("text/html"):
            raise MediaError(
                f"At {shown} there is a web page and no clip; open it in a browser and correct the task's URL."
            )
        if int(response.headers.get("content-length", 0)) > self._max_clip:
            raise self._too_large(shown)

    def _save(self, response: httpx.Response, shown: str, target: Path) -> None:
        size = 0
        with target.open("wb") as file:
            for chunk in response.iter_bytes():
                signs.alive()
                size += len(chunk)
                if size > self._max_clip:
                    raise self._too_large(shown)
                file.write(chunk)

    def _too_large(self, shown: str) -> MediaError:
        limit = f"{self._max_clip // 10**6} MB"
        return MediaError(f"The clip at {shown} is larger than {limit}; raise AV2T_MAX_CLIP_MB or shorten it.")

    def _media_failure(self, response: httpx.Response, shown: str, own: bool) -> Exception:
        status = response.status_code
        if own and status == 401:
            return self._refused(detail(response))
        if own and status == 403 and "/data/local-files/" in shown:
            return MediaError(
                f"Label Studio does not serve {shown}: start it with LOCAL_FILES_SERVING_ENABLED=true and connect the "
                "folder to the project as a local storage."
            )
        if own and status == 404 and "/data/local-files/" in shown:
            return MediaError(
                f"There is no clip at {shown}, or no storage that holds it; bring it there again, or connect its folder"
                " to the project as a local storage."
            )
        # Label Studio 1.23 answers 500 for an upload that it does not know.
        if status in {404, 410} or (own and status == 500 and "has_permission" in response.text):
            return MediaError(f"There is no clip at {shown}; bring it there again or correct the task's URL.")
        if status in TRANSIENT:
            return TransientError(f"The server of {shown} answers {status}.", retry_after(response.headers))
        return MediaError(f"The server of {shown} refuses the clip ({status}); the worker must be allowed to read it.")


@contextmanager
def _get(address: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    # A client for each request, so that no cookie of one host reaches another.
    with httpx.Client(timeout=TIMEOUT) as http, http.stream("GET", address, headers=headers) as response:
        yield response


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_whole(content_range: str) -> bool:
    """Whether that header, as in "bytes 0-99/100", is of all there is."""
    found = re.fullmatch(r"bytes 0-(\d+)/(\d+)", content_range)
    return found is not None and int(found[1]) + 1 == int(found[2])


def _shown(url: str) -> str:
    """The URL without user, password and query, but with what names a local file, as people write it."""
    parts = urlsplit(url)
    host = f"//{parts.hostname}{f':{parts.port}' if parts.port else ''}" if parts.hostname else ""
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    name = parse_qs(parts.query).get("d", []) if parts.path.endswith("/data/local-files/") else []
    return f"{scheme}{host}{parts.path}{f'?d={name[0]}' if name else ''}"
