"""The logs of worker and backend: one line for each thing that a person who watches them wants to know."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from av2t_core.text import lines, one_line, redact
from worker.queue.job import KnownJob
from worker.settings import Settings

# What the lines are about, told in each line of JSON; for people the sentences say it.
_subject: ContextVar[dict[str, str | int]] = ContextVar("subject", default={})  # noqa: B039  # never changed in place


@contextmanager
def about(job: KnownJob) -> Iterator[None]:
    """Within it all lines are about this job, its project and its task."""
    named = {"job": job.id, "project": job.subject.project, "task": job.subject.task}
    token = _subject.set({name: value for name, value in named.items() if value is not None})
    try:
        yield
    finally:
        _subject.reset(token)


class _Formatter(logging.Formatter):
    """What a line quotes may be from anybody: it begins no line of its own."""

    def __init__(self, secret: str) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        self._secret = secret

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record, self.datefmt)} {record.levelname} {self.message(record)}"
        return "\n".join([line, *(f"  {each}" for each in self.traceback(record).splitlines())])

    def message(self, record: logging.LogRecord) -> str:
        return one_line(redact(record.getMessage(), self._secret))

    def traceback(self, record: logging.LogRecord) -> str:
        """ "" if there is none."""
        return lines(redact(self.formatException(record.exc_info), self._secret)) if record.exc_info else ""


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": self.message(record),
            **_subject.get(),
        }
        if traceback := self.traceback(record):
            said["traceback"] = traceback
        return json.dumps(said, ensure_ascii=False)


def log_to_stderr(settings: Settings) -> None:
    """Lines of this project from INFO on and of others from WARNING on; the key to Label Studio is in none of them."""
    formatter = _JsonFormatter if settings.log_format == "json" else _Formatter
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings.secret))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("av2t", "backend"):
        logging.getLogger(name).setLevel(logging.INFO)
    # RQ sets its own loggers to INFO when it is imported.
    for name in ("rq.worker", "rq.job", "rq.registry", "rq.scheduler"):
        logging.getLogger(name).setLevel(logging.WARNING)
