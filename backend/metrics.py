"""What Prometheus is shown at /metrics: the state in Redis at that moment, and nothing of this process."""

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from redis import Redis

from worker.queue.connection import reachable
from worker.queue.queue import TRAIN
from worker.queue.results import Totals, totals
from worker.queue.views import Counts, Overview, counts, oldest_waiting, overview, workers

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(connection: Redis, model_version: str) -> bytes:
    """In Prometheus's text format. Raises QueueError."""
    with reachable(connection):
        counted = totals(connection)
    state, oldest = overview(connection), oldest_waiting(connection)
    age = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
    training, trainers = counts(connection, TRAIN), workers(connection, TRAIN)
    registry = CollectorRegistry()
    registry.register(
        _Collected([*_state(state, age, model_version), *_trainings(training, len(trainers)), *_counted(counted)])
    )
    return generate_latest(registry)


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _state(state: Overview, age: float, model_version: str) -> Iterator[Metric]:
    tasks = GaugeMetricFamily("av2t_tasks", "Tasks by state; done ones of the last 24 hours.", labels=["state"])
    for name, number in (
        ("waiting", state.queued),
        ("running", len(state.running)),
        ("done", state.finished),
        ("failed", state.failed),
    ):
        tasks.add_metric([name], number)
    yield tasks
    yield GaugeMetricFamily(
        "av2t_oldest_waiting_seconds", "How long the task at the queue's head has waited.", value=age
    )
    yield GaugeMetricFamily("av2t_workers", "Workers that listen for tasks.", value=len(state.workers))
    memory = GaugeMetricFamily(
        "av2t_worker_gpu_memory_bytes", "The most that a worker's model has held of its GPU.", labels=["worker"]
    )
    for worker in state.workers:
        if worker.gpu_memory is not None:
            memory.add_metric([worker.name], worker.gpu_memory)
    yield memory
    yield InfoMetricFamily("av2t_model", "The model version that the backend offers.", {"version": model_version})


def _trainings(training: Counts, trainers: int) -> Iterator[Metric]:
    described = "Trainings by state; done and failed ones of the last 30 days."
    trainings = GaugeMetricFamily("av2t_trainings", described, labels=["state"])
    for name, number in (
        ("waiting", training.queued),
        ("running", training.running),
        ("done", training.finished),
        ("failed", training.failed),
    ):
        trainings.add_metric([name], number)
    yield trainings
    yield GaugeMetricFamily("av2t_trainers", "Workers that listen for trainings.", value=trainers)


def _counted(counted: Totals) -> Iterator[Metric]:
    ended = CounterMetricFamily("av2t_ended_tasks", "Tasks that ended well, by outcome.", labels=["outcome"])
    for outcome, number in sorted(counted.outcomes.items()):
        ended.add_metric([outcome], number)
    yield ended
    yield CounterMetricFamily("av2t_keyframes", "Keyframes that got their masks.", value=counted.keyframes)
    seconds = CounterMetricFamily("av2t_stage_seconds", "Seconds that the workers spent, by stage.", labels=["stage"])
    for stage, taken in counted.seconds.items():
        seconds.add_metric([stage], taken)
    yield seconds
