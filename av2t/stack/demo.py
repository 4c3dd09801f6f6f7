"""The demo: clips in a project of Label Studio, put there through its API the way a person puts them there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
from redis import Redis

from av2t.console import progress_bar
from av2t.studio_project import StudioProject
from av2t_core.errors import AV2TError
from worker.queue.connection import connect
from worker.queue.queue import retry_failed
from worker.queue.views import failed_jobs, overview

TITLE = "AV2T-SAM demo"

# After this long with no job waiting or running and masks still missing, Label Studio is told to ask for them (again):
# its webhook gives up after a second and is never repeated.
IDLE_SECONDS = 10.0
ASK_AT_MOST = 6


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Clips of a folder in a project, pre-annotated by a backend. Label Studio, backend and worker run already.

    `clips` holds *.mp4 and labels.txt; `say` gets the progress lines.
    """

    studio_url: str
    api_key: str
    backend_url: str
    redis_url: str
    clips: Path
    say: Callable[[str], None]

    def run(self, check: Callable[[], None]) -> list[str]:
        """Make or complete the project, and wait; returns the names of the clips that got no masks.

        Running it again uploads nothing twice. `check` is called while it waits, and raises if waiting is of no use.
        AV2TError if the clips or Label Studio are not as they must be.
        """
        clips, labels = self._clips(), self._labels()
        headers = {"Authorization": f"Token {self.api_key}"}
        # Without the proxies of the environment, which do not reach this machine's own address.
        with httpx.Client(base_url=self.studio_url, headers=headers, timeout=120, trust_env=False) as client:
            project = StudioProject.named(client, TITLE, labels)
            model_version = project.connect(self.backend_url)
            self.say(f"demo: project {project.id} uses the backend with the model version {model_version}")
            present = project.clips().values()
            new = [clip for clip in clips if clip.name not in present]
            for clip in new:
                project.upload(clip)
            self.say(f"demo: clips uploaded: {len(new)}, there already: {len(clips) - len(new)}")
            missing = self._wait(project, model_version, [clip.name for clip in clips], check)
        self.say(f"demo: {len(clips) - len(missing)} of {len(clips)} clips have their masks")
        for name, reason in missing.items():
            self.say(f"demo: {name} has none: {reason}")
        return list(missing)

    def _clips(self) -> list[Path]:
        clips = sorted(self.clips.glob("*.mp4"))
        if not clips:
            raise AV2TError(f"{self.clips} holds no *.mp4; name a folder that holds some with --demo-clips")
        for clip in clips:
            # Label Studio changes all other characters, and the clip would not be recognised the next time.
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", clip.name):
                raise AV2TError(f"{clip} must be called with letters, digits, '_', '-' and '.' only; rename it")
        return clips

    def _labels(self) -> list[str]:
        path = self.clips / "labels.txt"
        if not path.is_file():
            raise AV2TError(f"{path} is missing; write into it what can be heard in the clips, one label on a line")
        return path.read_text().splitlines()

    def _wait(
        self, project: StudioProject, model_version: str, clips: Sequence[str], check: Callable[[], None]
    ) -> dict[str, str]:
        """Until each clip has a prediction of `model_version` or has failed; {clip without one: why}."""
        tasks = {task: clip for task, clip in project.clips().items() if clip in clips}
        asked = 0
        busy_at = time.monotonic() - IDLE_SECONDS  # ask at once for what an earlier run left undone
        told: set[str] = set()
        with progress_bar("masks", len(clips), "clip") as bar, connect(self.redis_url, timeout=10) as redis:
            retry_failed(redis, project.id)
            while True:
                check()
                now = _Standing.of(project, model_version, tasks, redis)
                bar.n = len(now.done)
                bar.set_postfix_str(now.at_work)
                if bar.disable:  # no terminal: lines in place of the bar
                    for clip in sorted(now.done - told):
                        self.say(f"demo: {clip} has its masks")
                    told = now.done
                waiting = {task: clip for task, clip in tasks.items() if clip not in now.done | now.failed.keys()}
                if not waiting:
                    break
                if now.busy:
                    busy_at = time.monotonic()
                elif time.monotonic() - busy_at >= IDLE_SECONDS:
                    if asked == ASK_AT_MOST:
                        break
                    project.ask_for_predictions(list(waiting))
                    asked, busy_at = asked + 1, time.monotonic()
                time.sleep(0.5)
        nothing_came = f"Label Studio was asked {asked} times and no job came; see its log and the backend's"
        return {clip: now.failed.get(clip, nothing_came) for clip in clips if clip not in now.done}


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """How far the clips are, at one moment."""

    done: set[str]  # have a prediction of the model version
    failed: dict[str, str]  # why
    busy: bool  # a job waits or runs
    at_work: str  # the clips at hand, and how many of their keyframes are done

    @classmethod
    def of(cls, project: StudioProject, model_version: str, tasks: Mapping[int, str], redis: Redis) -> Self:
        # The queue first: a job that ends in between is seen as both running and done, never as neither.
        queue = overview(redis)
        failed = failed_jobs(redis, project.id)
        return cls(
            done={tasks[task] for task in project.predicted(model_version) if task in tasks},
            failed={
                tasks[job.task]: job.error
                for job in failed
                if job.task is not None and job.task in tasks and job.model_version == model_version
            },
            busy=bool(queue.queued or queue.running),
            at_work=", ".join(
                f"{tasks[job.task]} {job.done}/{job.total} keyframes"
                for job in queue.running
                if job.task is not None and job.task in tasks and job.total
            ),
        )
