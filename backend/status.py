"""The status page: what runs, what waits and what failed, as HTML for people and as JSON for scripts."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from redis import Redis

from av2t.remedies import told
from av2t_core.errors import WeightsError
from av2t_core.text import sentence
from av2t_core.versions.pointers import read
from av2t_core.versions.version import Version, damaged, installed
from backend.door import exposure
from backend.manager import Manager
from worker.queue.connection import memory, reachable
from worker.queue.projects import Project, with_damaged
from worker.queue.queue import TRAIN
from worker.queue.results import having_sheets
from worker.queue.trainings import trainings
from worker.queue.views import failed_jobs, finished_jobs, overview, workers
from worker.settings import Settings, web_address

# More rows help nobody, and the counts say how many there are.
MAX_FAILURES = 100
MAX_FINISHED = 20
MAX_TRAININGS = 20

_templates = Environment(loader=PackageLoader("backend"), autoescape=True, undefined=StrictUndefined)


def snapshot(connection: Redis, manager: Manager, settings: Settings) -> dict[str, Any]:
    """All that the page shows; times are ISO 8601 in UTC. Raises QueueError."""
    projects, damaged_projects = with_damaged(connection)
    hostnames = {project.id: project.hostname for project in projects}

    def link(project: int) -> str:
        try:
            # It came in a request, and a link is followed by a person.
            base = web_address(hostnames.get(project, ""))
        except ValueError:
            base = settings.label_studio_url
        return f"{base}/projects/{project}/data"

    def with_link(row: dict[str, Any]) -> dict[str, Any]:
        if row["task"] is None:  # what was no job of ours
            return {**row, "link": None}
        return {**row, "link": f"{link(row['project'])}?task={row['task']}"}

    with reachable(connection):
        used = memory(connection)
    queue = plain(asdict(overview(connection)))
    failures = [plain(asdict(job)) for job in failed_jobs(connection, limit=MAX_FAILURES)]
    done = finished_jobs(connection, limit=MAX_FINISHED)
    learnt = trainings(connection, limit=MAX_TRAININGS)
    versions = installed(settings.models_dir)
    pictured = having_sheets(connection, [job.id for job in done])
    said = {
        **queue,
        "model_version": manager.current_version(),
        "exposure": exposure(settings),
        "redis": {**asdict(used), "full": used.full},
        "store": _store(manager),
        "projects": [{**_project(each, settings, versions), "link": link(each.id)} for each in projects],
        "running": [with_link(row) for row in queue["running"]],
        "failures": [with_link(row) for row in failures],
        "done": [{**with_link(plain(asdict(job))), "sheet": job.id in pictured} for job in done],
        "trainings": [{**plain(asdict(each)), "told": each.told, "link": link(each.project)} for each in learnt],
        "trainers": plain([asdict(worker) for worker in workers(connection, TRAIN)]),
        "damaged_projects": damaged_projects,
        "damaged_versions": list(damaged(settings.models_dir).values()),
        "remarks": [asdict(remark) for remark in manager.remarks()],
    }
    return {name: plain(value) for name, value in said.items()}


def _store(manager: Manager) -> dict[str, Any] | None:
    """None without a model store; `away_since`: since when it has not been reached, and `error`: why."""
    if manager.mirror.store is None:
        return None
    away = manager.mirror.away
    return {
        "url": manager.mirror.store.url,
        "away_since": plain(away.since) if away else None,
        "error": told(away.error) if away else None,
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
    own = [each for each in versions if each.card.get("project") == project.id and each.name != current]
    return {
        "id": project.id,
        "model_version": current,
        "error": error,
        "pinned": pointer is not None and pointer.current != current,
        "earlier": bool(pointer and pointer.history),
        "outdated": pointer is not None and settings.repredict == "ask",
        "versions": [
            {"name": each.name, "sentence": each.card.get("verdict", {}).get("sentence", "")}
            for each in sorted(own, key=lambda each: str(each.card.get("created")), reverse=True)
        ],
    }


def page(data: dict[str, Any]) -> str:
    """The snapshot as HTML."""
    return _templates.get_template("status.html").render(data)


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
