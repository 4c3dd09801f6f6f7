"""The backend's server: waitress with bounds. Who calls is asked before the body is read, and no client holds a
connection for long.

waitress counts a connection as busy with every byte that comes, keeps a whole body before anybody sees the header, and
takes no more connections once it has its number of them. Here each stage of a request has its time, and the connection
that has waited longest makes room for a new one.
"""

import errno
import logging
import signal
import socket
import sys
import time
from http import HTTPStatus
from math import inf
from threading import Thread
from typing import TYPE_CHECKING, Any

from redis import Redis
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher
from waitress.utilities import BadRequest

from av2t.remedies import told
from av2t_core import limits
from av2t_core.errors import AV2TError, ConfigError
from av2t_core.versions.mirror import Mirror
from backend.app import create_app
from backend.door import Door, Refusal, body_limit, exposure, too_large
from worker.queue.connection import QueueError, reachable, redis_address
from worker.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

THREADS = 8

_BUSY = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The backend is at work on other large requests: send this one again in 5 s",
    (("Retry-After", "5"),),
)


def serve(settings: Settings, connection: Redis) -> None:
    """Serve until SIGTERM or SIGINT. Raises AV2TError if the address or the model version cannot be used."""
    app = create_app(settings, connection)
    mirror = app.extensions["manager"].mirror
    if mirror.store:
        Thread(target=_follow, args=(mirror, settings.models_refresh), name="av2t-mirror", daemon=True).start()
    host, port = settings.backend_host, settings.backend_port
    try:
        server = listen(app, Door(settings), host, port)
    except OSError as error:
        taken = "end what listens there, or choose another with --port or AV2T_BACKEND_PORT"
        raise ConfigError(
            f"Port {port} of {host} is taken: {taken}"
            if error.errno == errno.EADDRINUSE
            else f"Cannot listen on {host}:{port} ({error.strerror}): change --host or --port"
        ) from None
    except ValueError:
        raise ConfigError(f"Cannot listen on {host}: it is no address of this machine; change --host") from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"The backend listens on http://{host}:{port}, its queue is in Redis at {_state(connection)}", flush=True)
    if caution := exposure(settings):
        print(f"WARNING: {caution}", flush=True)
        log.warning("%s", caution)
    # Ends on SystemExit and KeyboardInterrupt, after the requests at hand.
    server.run()


def _follow(mirror: Mirror, seconds: int) -> None:
    """Keep the mirror as the model store is."""
    while True:
        was_away = mirror.error is not None
        try:
            mirror.refresh()
            if was_away:
                log.info("the model store answers again")
        except AV2TError as error:
            if not was_away:
                log.warning("%s", told(error))
        time.sleep(seconds)


def _state(connection: Redis) -> str:
    try:
        with reachable(connection):
            connection.ping()
    except QueueError as error:
        return f"{redis_address(connection)}, which does not answer yet. {error}"
    return redis_address(connection)


def listen(app: "WSGIApplication", door: Door, host: str, port: int) -> MultiSocketServer:
    """A server that has its sockets; `run` serves. OSError, ValueError: there is no such address, or it is taken."""
    # The limits of waitress itself stand behind those of `Request`.
    adjustments = Adjustments(
        host=host,
        port=port,
        threads=THREADS,
        ident=None,
        asyncore_use_poll=True,
        cleanup_interval=1,
        connection_limit=10 * limits.CONNECTIONS,
        max_request_header_size=limits.HEADER,
        max_request_body_size=2 * limits.TASKS_BODY,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(THREADS)
    sockets: dict[int, Any] = {}
    for address in adjustments.listen:
        server = Server(app, sockets, dispatcher=dispatcher, adj=adjustments, sockinfo=address)
        server.door = door
    return MultiSocketServer(sockets, adjustments, dispatcher=dispatcher)


class Request(HTTPRequestParser):  # type: ignore[misc]  # the package has no types
    """A request that is being received. `reserved`: bytes of memory set aside for its body."""

    def __init__(self, adj: Adjustments, connection: "Connection") -> None:
        super().__init__(adj)
        self._connection = connection
        self.reserved = 0

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # of an address such as http://[, or a length of thousands of digits
            raise ParsingError("Malformed header") from None
        # As waitress itself tells the application.
        self._route = "/" + self.path.lstrip("/")
        server, address = self._connection.server, self._connection.addr[0]
        if refusal := server.door.refusal(self._route, self.headers, address) or self._too_much(self.content_length):
            self._refuse(refusal)

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.chunked and not self.error:
            receiver: Any = self.body_rcv
            if len(receiver.control_line) + len(receiver.trailer) > limits.CHUNK_LINE:
                self._refuse(BadRequest(f"a chunk's line is longer than {limits.CHUNK_LINE} bytes"))
            elif refusal := self._too_much(self.body_bytes_received):
                self._refuse(refusal)
        if self.error:
            self._connection.refused = True
            return len(data)  # what follows is not looked at
        return consumed

    def _too_much(self, size: int) -> Refusal | None:
        """The refusal of a body of so many bytes; None reserves memory for it."""
        if size > body_limit(self._route):
            return too_large(self._route)
        if size > max(self.reserved, limits.SMALL_BODY):
            # Of a body that comes in chunks nobody knows how long it gets.
            wanted = min(2 * size, body_limit(self._route)) if self.chunked else size
            if self._connection.server.held() - self.reserved + wanted > limits.BODIES_AT_ONCE:
                return _BUSY
            self.reserved = wanted
        return None

    def _refuse(self, error: object) -> None:
        self.close()
        self.error, self.completed = error, True
        self.body_rcv, self.chunked, self.content_length, self.expect_continue = None, False, 0, False


class Connection(HTTPChannel):  # type: ignore[misc]  # the package has no types
    """`since`: when its client began what it is at. `refused`: its last request was, and nothing more of it is read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.since = time.monotonic()
        self.refused = self._lingers = False
        self.close_when_flushed = False
        super().__init__(*args, **kwargs)

    def parser_class(self, adj: Adjustments) -> Request:
        return Request(adj, self)

    def ends(self, now: float) -> float:
        """When it is to be closed, if its client does not get on."""
        if self.requests:  # they are being answered
            self.since = now
            return inf
        if self._lingers:
            return self.since + limits.LINGER_SECONDS
        if self.total_outbufs_len:
            return self.since + limits.ANSWER_SECONDS
        if self.request is None:
            return self.since + limits.IDLE_SECONDS
        return self.since + (limits.BODY_SECONDS if self.request.headers_finished else limits.HEADER_SECONDS)

    @property
    def admitted(self) -> bool:
        """Whether its client has been let in with what it sends now."""
        return self.request is not None and self.request.headers_finished

    def received(self, data: bytes) -> bool:
        if self.refused:
            return False
        before = self.request, self.admitted
        taken: bool = super().received(data)
        if (self.request, self.admitted) != before:
            self.since = time.monotonic()
        return taken

    def handle_close(self) -> None:
        if self.request is not None:
            self.request.close()  # its body may be a file
        super().handle_close()

    def readable(self) -> bool:
        return self.connected and (self._lingers or super().readable())

    def writable(self) -> bool:
        return self.connected and bool(super().writable())

    def handle_write(self) -> None:
        """A connection that is closed while its client sends is reset, and the client never reads the answer: so what
        it still sends is discarded for a while."""
        if not self.refused or self.will_close:
            super().handle_write()
            return
        self._flush_exception(self._flush_some_if_lockable)
        if self.close_when_flushed and not self.total_outbufs_len:
            self.close_when_flushed = False
            self._lingers, self.since = True, time.monotonic()
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:  # it has gone
                self.handle_close()


class Server(TcpWSGIServer):  # type: ignore[misc]  # the package has no types
    channel_class = Connection
    door: Door
    _warned = -inf  # when the log last said that there are too many

    def held(self) -> int:
        """Bytes of the large bodies that are received or worked on."""
        connections = self.active_channels.values()
        return sum(each.reserved for one in connections for each in (one.request, *one.requests) if each)

    def readable(self) -> bool:
        """Asked before every wait for what the sockets bring, so nothing is at work on what is closed here."""
        if len(self.active_channels) > limits.CONNECTIONS:
            self._make_room()
        return bool(super().readable())

    def maintenance(self, _now: float) -> None:
        now = time.monotonic()
        for connection in list(self.active_channels.values()):
            if connection.ends(now) < now:
                connection.handle_close()

    def _make_room(self) -> None:
        waiting = [each for each in self.active_channels.values() if not each.requests]
        # Who sends what has been let in is spared, as long as not most of them do.
        unknown = [each for each in waiting if not each.admitted]
        if choice := unknown if len(unknown) > limits.CONNECTIONS // 2 else waiting:
            min(choice, key=lambda each: each.since).handle_close()
        if time.monotonic() - self._warned > limits.LONGEST_PAUSE:
            self._warned = time.monotonic()
            log.warning("More than %d connections: those that wait longest are closed", limits.CONNECTIONS)
