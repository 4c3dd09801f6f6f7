"""What runs, what waits and what failed: as a page for people, as JSON for scripts, and as metrics for Prometheus."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from av2t.remedies import told
from av2t_core.errors import WeightsError
from av2t_core.text import sentence
from av2t_core.versions.pointers import read
from av2t_core.versions.version import Version, damaged, installed
from backend.door import exposure
from backend.manager import Manager
from worker.queue.connection import memory, reachable
from worker.queue.projects import Project, with_damaged
from worker.queue.results import having_sheets, totals
from worker.queue.training import TRAIN
from worker.queue.views import failed_jobs, finished_jobs, oldest_waiting, overview, retried_jobs, trainings, workers
from worker.settings import Settings, web_address

__all__ = ["METRICS_TYPE", "metrics", "page", "plain", "snapshot"]

# More rows help nobody, and the counts say how many there are.
MAX_FAILURES = 100
MAX_FINISHED = 20
MAX_TRAININGS = 20

_templates = Environment(loader=PackageLoader("backend"), autoescape=True, undefined=StrictUndefined)


def snapshot(manager: Manager) -> dict[str, Any]:
    """All that the page shows; times are ISO 8601 in UTC. Raises QueueError."""
    connection, settings = manager.connection, manager.settings
    projects, damaged_projects = with_damaged(connection)
    hostnames = {project.id: project.hostname for project in projects}

    def link(project: int) -> str:
        return f"{_address(hostnames.get(project, ''), settings.label_studio_url)}/projects/{project}/data"

    def with_link(job: Any) -> dict[str, Any]:
        row = asdict(job)
        # What was put into the queue by others has no task.
        return {**row, "link": row["task"] and f"{link(row['project'])}?task={row['task']}"}

    with reachable(connection):
        used = memory(connection)
    queue = overview(connection)
    done = finished_jobs(connection, limit=MAX_FINISHED)
    versions = installed(settings.models_dir)
    pictured = having_sheets(connection, [job.id for job in done])
    state = {
        **asdict(queue),
        "model_version": manager.current_version(),
        "exposure": exposure(settings),
        "redis": {**asdict(used), "full": used.full},
        "store": _store(manager),
        "projects": [{**_project(each, settings, versions), "link": link(each.id)} for each in projects],
        "running": [with_link(job) for job in queue.running],
        "retried": [with_link(job) for job in retried_jobs(connection, limit=MAX_FAILURES)],
        "failures": [with_link(job) for job in failed_jobs(connection, limit=MAX_FAILURES)],
        "done": [{**with_link(job), "sheet": job.id in pictured} for job in done],
        "trainings": [
            {**asdict(each), "told": each.told, "link": link(each.project)}
            for each in trainings(connection, limit=MAX_TRAININGS)
        ],
        "trainers": [asdict(worker) for worker in workers(connection, TRAIN)],
        "damaged_projects": damaged_projects,
        "damaged_versions": list(damaged(settings.models_dir).values()),
        "remarks": [asdict(remark) for remark in manager.remarks()],
    }
    return {name: plain(value) for name, value in state.items()}


def _address(told: str, known: str) -> str:
    """Label Studio's for a person's browser: the one that it tells of itself, else that of the settings.

    It tells localhost unless it was told better; whoever has come by 127.0.0.1 is not logged in there.
    """
    try:
        # It came in a request, and a link is followed by a person.
        address = web_address(told)
    except ValueError:
        return known
    given, own = urlsplit(address), urlsplit(known)
    guessed = given.hostname == "localhost" and own.hostname == "127.0.0.1" and given.port == own.port
    return known if guessed else address


def _store(manager: Manager) -> dict[str, Any] | None:
    """None without a model store; `away_since`: since when it has not been reached, and `error`: why."""
    store = manager.mirror.store
    if store is None:
        return None
    return {
        "url": store.url,
        "away_since": manager.mirror.away_since,
        "error": told(manager.mirror.error) if manager.mirror.error else None,
    }


def _project(project: Project, settings: Settings, versions: Sequence[Version]) -> dict[str, Any]:
    """`versions`: those that were made for it, the newest first, but for the one that it uses. `earlier`: whether it
    used another one before. `pinned`: its settings in Label Studio name the one that it uses. `outdated`: whether
    tasks that an earlier one has predicted wait for a person to say so. `error`: why it can use none."""
    try:
        current, error = project.model_version(settings), None
        pointer = read(settings.models_dir, project.id)
    except WeightsError as wrong:
        current, error, pointer = "", told(wrong), None
    own = [each for each in versions if each.card.project == project.id and each.name != current]
    return {
        "id": project.id,
        "model_version": current,
        "error": error,
        "pinned": pointer is not None and pointer.current != current,
        "earlier": bool(pointer and pointer.history),
        "outdated": pointer is not None and settings.repredict == "ask",
        "versions": [
            {"name": each.name, "sentence": each.card.verdict.sentence if each.card.verdict else ""}
            for each in sorted(own, key=lambda each: str(each.card.created), reverse=True)
        ],
    }


def page(state: dict[str, Any]) -> str:
    """The snapshot as HTML."""
    return _templates.get_template("status.html").render(state)


def plain(value: Any) -> Any:
    """As JSON has it, and as a page can show it, whatever somebody has written into it."""
    if isinstance(value, dict):
        return {sentence(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return sentence(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat(timespec="seconds") if hasattr(value, "isoformat") else value


_Family = GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily


class _Families(list[Metric]):
    """Of metrics, as prometheus_client writes them."""

    def collect(self) -> Sequence[Metric]:
        return self

    def add(
        self, kind: Callable[..., _Family], name: str, description: str, values: Any, label: str | None = None
    ) -> None:
        """`values`: a number, or one for each value of the label."""
        family = kind(f"av2t_{name}", description, labels=[label] if label else [])
        rows = {(value,): number for value, number in values.items()} if label else {(): values}
        for row, number in rows.items():
            family.add_metric(row, number)
        self.append(family)


def metrics(manager: Manager) -> bytes:
    """The state in Redis at this moment, and nothing of this process, in Prometheus's text format. QueueError."""
    connection = manager.connection
    with reachable(connection):
        counted = totals(connection)
    state, oldest = overview(connection), oldest_waiting(connection)
    training = overview(connection, queue=TRAIN)
    age = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
    gpus = {worker.name: worker.gpu_memory for worker in state.workers if worker.gpu_memory is not None}
    found, gauge, counter = _Families(), GaugeMetricFamily, CounterMetricFamily
    found.add(gauge, "tasks", "Tasks by state; done ones of the last 24 hours.", state.by_state, "state")
    found.add(gauge, "oldest_waiting_seconds", "How long the task at the queue's head has waited.", age)
    found.add(gauge, "workers", "Workers that listen for tasks.", len(state.workers))
    found.add(gauge, "worker_gpu_memory_bytes", "The most that a worker's model has held of its GPU.", gpus, "worker")
    described = {"version": manager.current_version()}
    found.add(InfoMetricFamily, "model", "The model version that the backend offers.", described)
    tried = training.by_state
    found.add(gauge, "trainings", "Trainings by state; done and failed ones of the last 30 days.", tried, "state")
    found.add(gauge, "trainers", "Workers that listen for trainings.", len(training.workers))
    found.add(counter, "ended_tasks", "Tasks that ended well, by outcome.", counted.outcomes, "outcome")
    found.add(counter, "keyframes", "Keyframes that got their masks.", counted.keyframes)
    found.add(counter, "stage_seconds", "Seconds that the workers spent, by stage.", counted.seconds, "stage")
    return generate_latest(found)
