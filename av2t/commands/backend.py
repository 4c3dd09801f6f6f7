"""`av2t backend`: the ML backend that Label Studio connects to."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="the address to listen on (AV2T_BACKEND_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port to listen on (AV2T_BACKEND_PORT, 9090)")


def run(args: argparse.Namespace) -> int:
    # Imported here, for they take a second that `--help` can do without.
    from backend.server import serve
    from worker.logs import log_to_stderr
    from worker.queue.connection import connect
    from worker.settings import Settings

    settings = Settings.load(backend_host=args.host, backend_port=args.port)
    log_to_stderr(settings)
    serve(settings, connect(settings.redis_url))
    return 0
