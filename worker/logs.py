"""The worker's log: one line for each thing that a person who watches it wants to know."""

import logging
import sys

from worker.failures import redact


class _Formatter(logging.Formatter):
    def __init__(self, secret: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._secret = secret

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self._secret)


def log_to_stderr(secret: str) -> None:
    """Lines of this project from INFO on and of others from WARNING on; `secret` appears in none of them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(secret))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("av2t").setLevel(logging.INFO)
    # RQ sets its own loggers to INFO when it is imported.
    for name in ("rq.worker", "rq.job", "rq.registry", "rq.scheduler"):
        logging.getLogger(name).setLevel(logging.WARNING)
