"""The backend's process: a production WSGI server around the application, until a signal ends it."""

import errno
import logging
import signal
import sys
import time
from threading import Thread

from redis import Redis

from av2t.remedies import told
from av2t_core.errors import AV2TError, ConfigError
from av2t_core.versions.mirror import Mirror
from backend.app import create_app
from backend.connections import listen
from backend.door import Door, exposure
from worker.queue.connection import QueueError, reachable, redis_address
from worker.settings import Settings

log = logging.getLogger(__name__)


def serve(settings: Settings, connection: Redis) -> None:
    """Serve until SIGTERM or SIGINT. Raises AV2TError if the address or the model version cannot be used."""
    app = create_app(settings, connection)
    mirror = app.config["MANAGER"].mirror
    if mirror.store:
        Thread(target=_follow, args=(mirror, settings.models_refresh), name="av2t-mirror", daemon=True).start()
    host, port = settings.backend_host, settings.backend_port
    try:
        server = listen(app, Door(settings), host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} of {host} is taken: end what listens there, or choose another with --port"
                " or AV2T_BACKEND_PORT"
            ) from None
        raise ConfigError(f"Cannot listen on {host}:{port} ({error.strerror}): change --host or --port") from None
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
    """Have what the model store has, beside all that is answered meanwhile."""
    while True:
        was_away = mirror.away is not None
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
