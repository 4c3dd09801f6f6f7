"""The demo: clips in a project of Label Studio, put there through its API the way a person puts them there."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis import Redis
from tqdm import tqdm

from av2t.studio_project import StudioProject
from av2t_core.errors import AV2TError
from worker.queue import connect, failed_jobs, overview, retry_failed

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
            self.say(f"demo: {len(new)} clips uploaded, {len(clips) - len(new)} were there already")
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
        failed: dict[str, str] = {}
        asked = 0
        busy_at = time.monotonic() - IDLE_SECONDS  # ask at once for what an earlier run left undone
        bar = tqdm(total=len(clips), desc="masks", unit="clip", disable=not sys.stderr.isatty())
        with bar, connect(self.redis_url, timeout=10) as redis:
            retry_failed(redis, project.id)
            while True:
                check()
                done = {tasks[task] for task in project.predicted(model_version) if task in tasks}
                failed = {
                    tasks[job.task]: job.error
                    for job in failed_jobs(redis, project.id)
                    if job.task in tasks and job.model_version == model_version
                }
                bar.n = len(done)
                bar.set_postfix_str(_running(redis, tasks), refresh=True)
                waiting = set(clips) - done - set(failed)
                if not waiting:
                    break
                if _is_busy(redis):
                    busy_at = time.monotonic()
                elif time.monotonic() - busy_at >= IDLE_SECONDS:
                    if asked == ASK_AT_MOST:
                        break
                    project.ask_for_predictions([task for task, clip in tasks.items() if clip in waiting])
                    asked, busy_at = asked + 1, time.monotonic()
                time.sleep(0.5)
        nothing_came = f"Label Studio was asked {asked} times and no job came; see its log and the backend's"
        return {clip: failed.get(clip, nothing_came) for clip in clips if clip not in done}


def _is_busy(redis: Redis) -> bool:
    now = overview(redis)
    return bool(now.queued or now.running)


def _running(redis: Redis, tasks: Mapping[int, str]) -> str:
    """What the bar says besides the number of clips: how many keyframes of the clips at hand are done."""
    jobs = [job for job in overview(redis).running if job.task in tasks and job.total]
    return ", ".join(f"{tasks[job.task]} {job.done}/{job.total} keyframes" for job in jobs)
