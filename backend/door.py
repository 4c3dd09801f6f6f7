"""Who may come in, and with how much: decided from a request's header, before its body is read."""

import json
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from math import ceil
from typing import Any
from urllib.parse import urlsplit

from werkzeug.datastructures import Authorization

from av2t_core import limits
from worker.settings import Settings

log = logging.getLogger(__name__)

# It tells nothing, and who asks whether the backend is well has often neither its password nor its name.
OPEN = "/health"

# The largest body of a path, and what to do about a larger one.
_TASKS = (limits.TASKS_BODY, "send fewer tasks at once")
BODIES = {
    "/predict": _TASKS,
    "/webhook": _TASKS,
    "/setup": (limits.SETUP_BODY, "make the project's label config smaller"),
}
_OTHER_BODY = (limits.SMALL_BODY, "nothing larger is meant for it")

# Names that cannot be registered in the public DNS.
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")


@dataclass(frozen=True)
class Refusal:
    """An answer that is sent without reading the body."""

    code: HTTPStatus
    sentence: str
    headers: tuple[tuple[str, str], ...] = ()

    def to_response(self, _ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """As waitress writes errors."""
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *self.headers]
        return status_line(self.code, self.sentence), headers, json.dumps({"error": self.sentence}).encode()


def status_line(code: int, sentence: str) -> str:
    """Label Studio reads no error's body. It shows the status line's reason to the person who connects the backend, so
    that is where the sentence has to be; a line of HTTP holds no line breaks and no characters beyond latin-1."""
    reason = " ".join(sentence.split())[:500].encode("latin-1", "replace").decode("latin-1")
    return f"{int(code)} {''.join(each if each.isprintable() else '?' for each in reason)}"


def exposure(settings: Settings) -> str | None:
    """What to say where others than this machine's programs may do everything."""
    host = settings.backend_host
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if local or settings.backend_password is not None:
        return None
    return (
        f"the backend listens on {host} and asks nobody for a password: whoever reaches port {settings.backend_port}"
        " may queue, stop and train; set AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD"
    )


def body_limit(path: str) -> int:
    return BODIES.get(path, _OTHER_BODY)[0]


def too_large(path: str) -> Refusal:
    limit, remedy = BODIES.get(path, _OTHER_BODY)
    size = f"{limit >> 20} MB" if limit >> 20 else f"{limit >> 10} kB"
    sentence = f"The body for {path[:100]} is larger than {size}: {remedy}"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


class Door:
    """Not safe between threads: the one thread that reads headers asks it. `clock` counts seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        password = settings.backend_password
        self._expected = None if password is None else (settings.backend_user or "", password.get_secret_value())
        self._guesses = Guesses(clock)
        own = {"localhost", socket.gethostname().lower(), settings.backend_host.lower()}
        asks_for_name = self._expected is None or settings.backend_hosts
        self._names = None if "*" in settings.backend_hosts or not asks_for_name else own.union(settings.backend_hosts)

    def refusal(self, path: str, headers: Mapping[str, str], address: str) -> Refusal | None:
        """None lets it in. `headers`: by names like CONTENT_LENGTH."""
        if path == OPEN:
            return None
        return self._by_name(headers.get("HOST")) or self._by_password(headers.get("AUTHORIZATION"), address)

    def _by_name(self, host: str | None) -> Refusal | None:
        """Another site's page in a person's browser reaches the backend under that site's name, once its DNS says so.

        A password keeps it out, which that browser has only for the right name. Browsers always say the name.
        """
        if self._names is None or host is None or _is_private(host) or _hostname(host) in self._names:
            return None
        return Refusal(
            HTTPStatus.FORBIDDEN,
            f"The backend is not known by the name {host[:100]!r}: add it to AV2T_BACKEND_HOSTS, or set"
            " AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD",
        )

    def _by_password(self, given: str | None, address: str) -> Refusal | None:
        if self._expected is None:
            return None
        if given is not None:
            pause = self._guesses.pause(address)
            right = self._is_right(given)
            if right and (not pause or self._guesses.is_trusted(address)):
                self._guesses.was_right(address)
                return None
            if seconds := ceil(pause):
                sentence = f"Too many wrong passwords came from {address}: correct them, and try again in {seconds} s"
                return Refusal(HTTPStatus.TOO_MANY_REQUESTS, sentence, (("Retry-After", str(seconds)),))
            self._guesses.was_wrong(address)
        sentence = "The user and the password in AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD are needed"
        return Refusal(HTTPStatus.UNAUTHORIZED, sentence, (("WWW-Authenticate", 'Basic realm="AV2T-SAM"'),))

    def _is_right(self, given: str) -> bool:
        credentials = Authorization.from_header(given)
        if credentials is None or credentials.type != "basic" or self._expected is None:
            return False
        given_pair = (credentials.username or "", credentials.password or "")
        # Both are compared, and each in the same time wherever the first difference is.
        return all([compare_digest(a.encode(), b.encode()) for a, b in zip(given_pair, self._expected, strict=True)])


def _hostname(host: str) -> str:
    """Of a header "name:port"; "" if it has none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_private(host: str) -> bool:
    """Whether it is an address, or a name that cannot be registered in the public DNS."""
    name = _hostname(host)
    try:
        ip_address(name)
    except ValueError:
        # A name without a dot is of this network, as those of compose's services are.
        return bool(name) and ("." not in name or name.endswith(_PRIVATE_NAMES))
    return True


class Guesses:
    """The wrong passwords of each address, and the pauses that they cost: doubled by every further one.

    Where the right one came from, it is always taken: else whoever shares Label Studio's address could keep it out.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By network: how many were wrong, when the last one came, and until when none is looked at.
        self._tries: OrderedDict[str, tuple[int, float, float]] = OrderedDict()
        self._trusted: OrderedDict[str, None] = OrderedDict()

    def pause(self, address: str) -> float:
        """Seconds until the next try of this address is looked at."""
        *_, until = self._tries.get(_network(address), (0.0,))
        return max(until - self._clock(), 0)

    def is_trusted(self, address: str) -> bool:
        return address in self._trusted

    def was_right(self, address: str) -> None:
        self._tries.pop(_network(address), None)
        _remember(self._trusted, address, None)

    def was_wrong(self, address: str) -> None:
        now, network = self._clock(), _network(address)
        wrong, last, until = self._tries.get(network, (0, now, 0.0))
        if now - last > 10 * limits.LONGEST_PAUSE:
            wrong, until = 0, 0.0
        wrong += 1
        if (beyond := wrong - limits.WRONG_PASSWORDS) >= 0:
            until = now + min(2.0 ** min(beyond, 30), limits.LONGEST_PAUSE)
            log.warning("%d wrong passwords came from %s", wrong, address)
        _remember(self._tries, network, (wrong, now, until))


def _network(address: str) -> str:
    """Of IPv6 everybody has 2**64 addresses."""
    found = ip_address(address)
    return address if found.version == 4 else str(ip_network((found.packed, 64), strict=False))


def _remember(among: OrderedDict[str, Any], key: str, value: object) -> None:
    among[key] = value
    among.move_to_end(key)
    if len(among) > limits.ADDRESSES:
        among.popitem(last=False)
