"""The demo: clips in a project of Label Studio, put there through its API the way a person puts them there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from av2t.console import progress_bar
from av2t_core.errors import AV2TError
from worker.client.api import KeyRefusedError
from worker.client.label_studio import LabelStudioClient
from worker.client.projects import ask_for_predictions, connect_backend, find_or_make, recommended_config, upload_clip
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

    client: LabelStudioClient
    backend_url: str
    redis_url: str
    clips: Path
    say: Callable[[str], None]

    def run(self, check: Callable[[], None]) -> list[str]:
        """Make or complete the project, and wait; returns the names of the clips that got no masks.

        Running it again uploads nothing twice. `check` is called while it waits, and raises if waiting is of no use.
        AV2TError if the clips or Label Studio are not as they must be.
        """
        clips, labels = self._read()
        try:
            project = find_or_make(self.client.api, TITLE, recommended_config(labels))
        except KeyRefusedError as error:
            raise AV2TError(
                f"{error} It is the key that it was started with: allow legacy tokens in its organization's settings,"
                " or start with an empty folder with --data-dir"
            ) from None
        model_version = connect_backend(self.client.api, project, self.backend_url)
        self.say(f"demo: project {project} uses the backend with the model version {model_version}")
        present = {task.file for task in self.client.tasks(project)}
        new = [clip for clip in clips if clip.name not in present]
        for clip in new:
            upload_clip(self.client.api, project, clip)
        self.say(f"demo: clips uploaded: {len(new)}, there already: {len(clips) - len(new)}")
        missing = self._wait(project, model_version, [clip.name for clip in clips], check)
        self.say(f"demo: {len(clips) - len(missing)} of {len(clips)} clips have their masks")
        for name, reason in missing.items():
            self.say(f"demo: {name} has none: {reason}")
        return list(missing)

    def _read(self) -> tuple[list[Path], list[str]]:
        """The clips, and the labels of what can be heard in them."""
        clips = sorted(self.clips.glob("*.mp4"))
        if not clips:
            raise AV2TError(f"{self.clips} holds no *.mp4; name a folder that holds some with --demo-clips")
        for clip in clips:
            # Label Studio changes all other characters, and the clip would not be recognised the next time.
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", clip.name):
                raise AV2TError(f"{clip} must be called with letters, digits, '_', '-' and '.' only; rename it")
        path = self.clips / "labels.txt"
        if not path.is_file():
            raise AV2TError(f"{path} is missing; write into it what can be heard in the clips, one label on a line")
        return clips, path.read_text().splitlines()

    def _wait(self, project: int, model_version: str, clips: list[str], check: Callable[[], None]) -> dict[str, str]:
        """Until each clip has a prediction of `model_version` or has failed; {clip without one: why}."""
        tasks = {task.id: task.file for task in self.client.tasks(project) if task.file in clips}
        asked = 0
        busy_at = time.monotonic() - IDLE_SECONDS  # ask at once for what an earlier run left undone
        reported: set[str] = set()
        with progress_bar("masks", len(clips), "clip") as bar, connect(self.redis_url, timeout=10) as redis:
            retry_failed(redis, project)
            while True:
                check()
                # The queue first: a job that ends in between is seen as both running and done, never as neither.
                queue = overview(redis)
                failed = {
                    tasks[job.task]: job.error
                    for job in failed_jobs(redis, project)
                    if job.task in tasks and job.model_version == model_version
                }
                done = {
                    tasks[task.id]
                    for task in self.client.tasks(project)
                    if task.id in tasks and model_version in task.predictions_model_versions
                }
                at_work = (
                    f"{tasks[job.task]} {job.done}/{job.total} keyframes"
                    for job in queue.running
                    if job.task in tasks and job.total
                )
                bar.n = len(done)
                bar.set_postfix_str(", ".join(at_work))
                if bar.disable:  # no terminal: lines in place of the bar
                    for clip in sorted(done - reported):
                        self.say(f"demo: {clip} has its masks")
                    reported = done
                waiting = [task for task, clip in tasks.items() if clip not in done | failed.keys()]
                if not waiting:
                    break
                if queue.queued or queue.running:
                    busy_at = time.monotonic()
                elif time.monotonic() - busy_at >= IDLE_SECONDS:
                    if asked == ASK_AT_MOST:
                        break
                    ask_for_predictions(self.client.api, project, waiting)
                    asked, busy_at = asked + 1, time.monotonic()
                time.sleep(0.5)
        nothing_came = f"Label Studio was asked {asked} times and no job came; see its log and the backend's"
        return {clip: failed.get(clip, nothing_came) for clip in clips if clip not in done}
