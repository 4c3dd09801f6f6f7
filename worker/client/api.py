"""Label Studio's API, used with one key. Every answer is checked where it enters.

Every failure is one of three: AV2TError (trying again does not help), TransientError (it may pass), or GoneError. No
message carries a token, a header or the query of a URL, which may hold a signature. What a refusal is taken for:

| answer | taken for | why |
|---|---|---|
| a status that `may_pass` | may pass | the server, or one before it, is busy or not itself |
| any other refusal of Label Studio, in its own words | final | it knows |
| the same without its words | may pass | a proxy says so, as while Label Studio is deployed |
| any other refusal of a clip's server | doubtful | it may be a proxy's: it is believed when it is repeated |

That a task or a project is gone is believed when Label Studio says so in its own words, twice, with a pause between.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Annotated, Any, TypeVar

import httpx
import jwt
from pydantic import AfterValidator, TypeAdapter, ValidationError

from av2t_core.errors import AV2TError, ConfigError, may_pass
from av2t_core.limits import API_ANSWER, API_SECONDS, ERROR_BODY
from worker.client.transport import Bounds, transport
from worker.failures import GoneError, TransientError
from worker.queue import heartbeat

TIMEOUT = httpx.Timeout(60, connect=10)
GONE_PAUSE = 2.0  # seconds before Label Studio is asked again whether something is gone
Answer = TypeVar("Answer")


class KeyRefusedError(AV2TError):
    """Label Studio does not take the key."""


class SlowError(TransientError):
    """Label Studio did not answer in time."""


def _claims(token: str) -> dict[str, Any]:
    """ValueError: it is no JSON web token."""
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise ValueError("no JSON web token") from None
    return claims


@dataclass(frozen=True)
class _Access:
    access: Annotated[str, AfterValidator(lambda token: _claims(token) and token)]


class Api:
    """Label Studio at `url`, and one key to it, of `key_kind`. ConfigError: the key cannot be one."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self.key_kind = _key_kind(key)
        self._key, self._access, self._expires = key, "", 0.0
        self._http = httpx.Client(
            base_url=self.url,
            timeout=TIMEOUT,
            follow_redirects=False,  # the API has none
            auth=self._authorize,
            headers={"Accept-Encoding": "identity"},
            transport=transport(self.url, Bounds(seconds=API_SECONDS, size=API_ANSWER)),
        )
        self.close = self._http.close

    def ask(
        self,
        method: str,
        path: str,
        about: str,
        shape: type[Answer],
        *,
        field: str | None = None,
        object_hook: Any = None,
        **options: Any,
    ) -> Answer:
        """The answer, or that field of it, checked to have this shape. `about` names in messages what is asked for;
        `object_hook` is passed to json.loads. `options` are those of httpx, and `gone=True`, which makes a 404 a
        GoneError."""
        with self._answer(method, path, about, **options) as response:
            response.read()
            answer = response.json(object_hook=object_hook)
            if field is not None:
                answer = TypeAdapter(dict[str, Any]).validate_python(answer)[field]
            return TypeAdapter(shape).validate_python(answer)

    def tell(self, method: str, path: str, about: str, **options: Any) -> None:
        """As `ask`, without reading the answer, which may be large."""
        with self._answer(method, path, about, **options) as response:
            for _ in response.iter_raw():
                pass

    def authorization(self) -> str:
        """The header's value. A personal access token is exchanged for an access token, which lives five minutes."""
        if self.key_kind == "legacy token":
            return f"Token {self._key}"
        if self._expires < time():
            body = {"refresh": self._key}
            self._access = self.ask("POST", "/api/token/refresh", "the key", _Access, json=body, auth=None).access
            self._expires = _claims(self._access).get("exp", 0)
        return f"Bearer {self._access}"

    def key_refused(self, detail: str) -> AV2TError:
        return KeyRefusedError(
            f"Label Studio at {self.url} refuses the {self.key_kind} in LABEL_STUDIO_API_KEY ({detail}); "
            "create a new one on its page Account & Settings."
        )

    def _authorize(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = self.authorization()
        return request

    @contextmanager
    def _answer(
        self, method: str, path: str, about: str, *, gone: bool = False, **options: Any
    ) -> Iterator[httpx.Response]:
        """A successful response whose body has not been read."""
        pauses = [GONE_PAUSE] if gone else []
        try:
            while True:
                with self._http.stream(method, path, **options) as response:
                    if response.is_success:
                        yield response
                        return
                    said = own_words(response)
                    if not gone or said is None or response.status_code != httpx.codes.NOT_FOUND:
                        raise self._failure(response, said, about)
                if not pauses:
                    raise GoneError(about)
                heartbeat.pause(pauses.pop())
        except httpx.TransportError as error:
            kind = SlowError if isinstance(error, httpx.ReadTimeout) else TransientError
            raise kind(f"Label Studio at {self.url} cannot be reached ({reason(error)}).") from None
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError, KeyError):
            raise TransientError(
                f"Label Studio at {self.url} answers no JSON of its own for {about}; is it another server?"
            ) from None

    def _failure(self, response: httpx.Response, said: str | None, about: str) -> Exception:
        status = response.status_code
        if may_pass(status):
            sentence = f"Label Studio at {self.url} answers {status} for {about}."
            return TransientError(sentence, retry_after(response.headers))
        if said is None:
            return TransientError(
                f"Label Studio at {self.url} answers {status} for {about}, and not in its own words: a proxy before it,"
                " or LABEL_STUDIO_URL is another server's."
            )
        if status == httpx.codes.UNAUTHORIZED:
            return self.key_refused(said)
        if status == httpx.codes.FORBIDDEN:
            return AV2TError(
                f"The account of LABEL_STUDIO_API_KEY has no access to {about}; make it a member of the project."
            )
        return AV2TError(f"Label Studio at {self.url} refuses {about} ({status}: {said}).")


def own_words(response: httpx.Response) -> str | None:
    """The reason that an error gives in Label Studio's own words; None for the words of a proxy."""
    read = b""
    for chunk in response.iter_bytes():
        read += chunk
        if len(read) > ERROR_BODY:
            return None
    try:
        body = json.loads(read)
    except ValueError:
        return None
    if not isinstance(body, dict) or not {"version", "detail"} <= body.keys():
        return None
    if body.get("status_code") != response.status_code:
        return None
    errors = body.get("validation_errors")
    return f"{body['detail']}{f', {errors}' if errors else ''}"[:500]


def reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - time(), 0)
    except (ValueError, OverflowError):
        return None


def _key_kind(key: str) -> str:
    """Which of the two kinds the key is; ConfigError where it can be neither."""
    try:
        claims = _claims(key)
    except ValueError:
        return "legacy token"
    if claims.get("token_type") != "refresh":
        raise ConfigError(
            "LABEL_STUDIO_API_KEY is an access token, which lives five minutes; "
            "use the personal access token from Label Studio's page Account & Settings."
        )
    if claims.get("exp", 0) < time():
        raise ConfigError(
            "The personal access token in LABEL_STUDIO_API_KEY has expired; "
            "create a new one on Label Studio's page Account & Settings."
        )
    return "personal access token"
