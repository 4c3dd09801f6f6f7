"""The way to servers that may be anybody's: where a connection may go, how slow it may be, and how much it may bring.

All of it is asked of the connection itself, below HTTP: a name is resolved once, looked at, and connected to by that
address, so that neither a redirect nor a changed DNS entry leads elsewhere.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from av2t_core.limits import LEAST_RATE, PATIENCE

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

PORTS = {"http": 80, "https": 443}
_NAT64 = ip_network("64:ff9b::/96")


class ForbiddenAddressError(Exception):
    """A connection would lead to where this worker may not go."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where connections may go: to the public internet, to the `own` host and port, and to these networks."""

    own: tuple[str, int]
    networks: Sequence[Network] = ()

    def addresses_of(self, host: str, port: int) -> list[str]:
        """What to connect to, one after the other. ForbiddenAddressError; OSError where the name has no address."""
        if (host, port) == self.own:
            return [host]
        found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for each in found:
            meant = _meant(ip_address(each.partition("%")[0]))
            public = meant.is_global and not meant.is_multicast
            if not public and not any(meant in network for network in self.networks):
                raise ForbiddenAddressError(host)
        return found


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, address))[1]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Of one answer. `seconds`: for all of it; `size`: in bytes, headers included."""

    seconds: float
    size: int


def transport(url: str, bounds: Bounds, places: Places | None = None) -> httpx.HTTPTransport:
    """For requests to `url`, through the environment's proxy where it names one; None: they may go anywhere.

    Who reaches the network through a proxy leaves it to that one where names may lead.
    """
    parts, proxy = urlsplit(url), _proxy_for(url)
    if proxy is not None and places is not None and _address(parts.hostname):
        places.addresses_of(parts.hostname or "", parts.port or PORTS[parts.scheme])
    return _Transport(_Backend(bounds, None if proxy else places), proxy)


class _Transport(httpx.HTTPTransport):
    def __init__(self, backend: httpcore.NetworkBackend, proxy: str | None) -> None:
        super().__init__(proxy=proxy)
        # httpx has no way of its own to say how connections are made; httpcore, beneath it, has.
        self._pool._network_backend = backend

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # It was asked not to, and what a few bytes unfold to has no bound.
            response.close()
            raise httpx.RemoteProtocolError("it answers in an encoding that it was not asked for", request=request)
        return response


class _Backend(httpcore.NetworkBackend):
    def __init__(self, bounds: Bounds, places: Places | None) -> None:
        self._bounds, self._places, self._plain = bounds, places, httpcore.SyncBackend()

    def connect_tcp(self, host: str, port: int, *options: Any, **more: Any) -> httpcore.NetworkStream:
        try:
            *others, last = self._places.addresses_of(host, port) if self._places else [host]
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None

        def connected(address: str) -> httpcore.NetworkStream:
            return _Stream(self._plain.connect_tcp(address, port, *options, **more), self._bounds)

        for each in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return connected(each)
        return connected(last)


class _Stream(httpcore.NetworkStream):
    """A connection that is given up when an answer takes too long, comes too slowly, or becomes too large."""

    def __init__(self, stream: httpcore.NetworkStream, bounds: Bounds) -> None:
        self._stream, self._bounds = stream, bounds
        self._begin()

    def _begin(self) -> None:
        self._asked, self._waited, self._size = time.monotonic(), 0.0, 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        began = time.monotonic()
        data = self._stream.read(max_bytes, timeout)
        now = time.monotonic()
        self._waited += now - began
        self._size += len(data)
        if self._size > self._bounds.size:
            raise httpcore.ReadError(f"its answer is larger than {self._bounds.size // 10**6} MB")
        if data and now - self._asked > self._bounds.seconds:
            raise httpcore.ReadTimeout(f"its answer takes longer than {self._bounds.seconds:.0f} s")
        if data and self._size < LEAST_RATE * (self._waited - PATIENCE):
            raise httpcore.ReadTimeout(f"its answer comes slower than {LEAST_RATE // 1000} kB a second")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._begin()
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *options: Any, **more: Any) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(*options, **more), self._bounds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _proxy_for(url: str) -> str | None:
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host, address = parts.hostname or "", _address(parts.hostname)
    # No proxy leads back to this machine.
    if proxy is None or host == "localhost" or (address and address.is_loopback) or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _address(host: str | None) -> Address | None:
    try:
        return ip_address(host or "")
    except ValueError:
        return None
