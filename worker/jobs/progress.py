"""What is told of a running job: to people on the status page, to the worker that watches it."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from av2t_core.prediction.drawing import ContactSheet
from worker.queue import heartbeat
from worker.queue.connection import best_effort
from worker.queue.job import KnownJob
from worker.queue.results import keep_sheet, note_score

INTERVAL = 0.3  # seconds
SHEET_QUALITY = 75


class Progress:
    """In the job's meta; a Redis that is away does not stop the job."""

    def __init__(self, job: KnownJob | None) -> None:
        self.job = job
        self._shown = 0.0

    def show(self, done: int, total: int | None, *, now: bool = False, **more: Any) -> None:
        """`done` of `total` keyframes, None where nobody knows how many there will be; and what else is told."""
        heartbeat.beat()
        if now or time.monotonic() - self._shown >= INTERVAL:
            self._shown = time.monotonic()
            self._save(done=done, total=total, **more)

    def mark(self, step: str) -> bool:
        """Note that a step begins; whether an earlier try of the job had begun it too."""
        before = self.job is not None and bool(getattr(self.job.told, step))
        self._save(**{step: True})
        return before

    def note_score(self, project: int, task: int, score: float) -> None:
        if self.job is not None:
            with best_effort(f"the score of {self.job.id} was not noted"):
                note_score(self.job.connection, project, task, score)

    def keep(self, sheet: ContactSheet) -> None:
        if self.job is not None:
            jpeg = io.BytesIO()
            sheet.image().save(jpeg, "JPEG", quality=SHEET_QUALITY)
            with best_effort(f"the contact sheet of {self.job.id} was not kept"):
                keep_sheet(self.job.connection, self.job.id, jpeg.getvalue())

    def _save(self, **values: Any) -> None:
        if self.job is not None:
            with best_effort(f"the progress of {self.job.id} was not noted"):
                self.job.note(**values)


class Stopwatch:
    """The seconds of a task's stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counted only if it ends well."""
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
