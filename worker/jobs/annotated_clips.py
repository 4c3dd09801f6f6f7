"""The clips that people have annotated, as a training takes them: decoded and encoded once for each annotation."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as release
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from av2t.remedies import told
from av2t_core.errors import MediaError
from av2t_core.files import file_hash, writing
from av2t_core.finetuning.examples import ClipExamples, examples_of
from av2t_core.labelstudio.annotations import AnnotationError, ClipMasks, read_annotation
from av2t_core.labelstudio.label_config import Targets
from av2t_core.media.clip import Window
from av2t_core.versions.checkpoint import Loaded
from av2t_core.versions.version import Version
from worker.client.annotations import AnnotatedTask, Skipped
from worker.client.label_studio import LabelStudioClient
from worker.failures import DOUBTS, DoubtfulError, GoneError, delay
from worker.jobs.preannotation import file_name, opened_clip
from worker.queue import heartbeat
from worker.queue.heartbeat import Progress
from worker.settings import Settings

log = logging.getLogger("av2t.worker")


@dataclass(frozen=True, kw_only=True)
class PulledClip:
    """An annotated clip that can be used. `key`: what its examples depend on."""

    task: AnnotatedTask
    key: str
    examples: ClipExamples

    @property
    def sha256(self) -> str:
        """Of the clip's file."""
        return self.examples.sha256


class AnnotatedClips:
    """Those of one project, which are kept in `folder` as examples."""

    def __init__(
        self, client: LabelStudioClient, settings: Settings, targets: Targets, folder: Path, progress: Progress
    ) -> None:
        self._client, self._settings, self._targets = client, settings, targets
        self._folder, self._progress = folder, progress

    def pull(
        self, tasks: Sequence[AnnotatedTask], base: Version, loaded: Loaded
    ) -> tuple[list[PulledClip], list[Skipped]]:
        """The clips, with what the model reads of them and their masks kept as examples."""
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        found: dict[int, PulledClip | Skipped] = {}
        for tried in range(DOUBTS + 1):
            left = [task for task in tasks if task.task not in found]
            if left and tried:
                heartbeat.pause(delay(tried - 1))
            for task in left:
                self._progress.show(len(found), len(tasks), stage="pulling")
                heartbeat.check()
                try:
                    found[task.task] = self._pulled(task, base, loaded)
                except DoubtfulError as error:
                    if tried == DOUBTS:
                        found[task.task] = Skipped(task=task.task, reason=told(error))
        pulled = [each for task in tasks if isinstance(each := found[task.task], PulledClip)]
        skipped = [each for task in tasks if isinstance(each := found[task.task], Skipped)]
        wanted = {f"{self._key(task, base)}.safetensors" for task in tasks}
        for path in self._folder.iterdir():
            if path.name not in wanted:  # of annotations that have changed or are gone
                path.unlink(missing_ok=True)
        for each in skipped:
            log.info("task %d is left out: %s", each.task, each.reason)
        return pulled, skipped

    def _pulled(self, task: AnnotatedTask, base: Version, loaded: Loaded) -> PulledClip | Skipped:
        path = self._folder / f"{self._key(task, base)}.safetensors"
        try:
            examples = ClipExamples.load(path) or self._examples(task, loaded, path)
        except GoneError:
            return Skipped(task=task.task, reason="it is gone")
        except (MediaError, AnnotationError) as error:
            return Skipped(task=task.task, reason=told(error))
        return PulledClip(task=task, key=path.name, examples=examples)

    def _examples(self, task: AnnotatedTask, loaded: Loaded, path: Path) -> ClipExamples:
        """Make and keep those of a clip. MediaError, AnnotationError, GoneError."""
        with self.opened(task) as (sha256, windows, masks):
            examples = examples_of(loaded, windows, masks, masks.by_page, sha256)
        count = len(examples.keyframes)
        if count != task.pages:
            raise AnnotationError(
                f"it was annotated on {task.pages} frames, and the clip has {count} keyframes now: set"
                " AV2T_KEYFRAMES_PER_SECOND and AV2T_MAX_KEYFRAMES to what they were, or annotate it anew"
            )
        with writing(path):
            examples.save(path)
        return examples

    @contextmanager
    def opened(self, task: AnnotatedTask) -> Iterator[tuple[str, Iterator[Window], ClipMasks]]:
        """The sha256 of the clip's file, its windows as for a prediction, and what the person said of them."""
        settings = self._settings
        with TemporaryDirectory(prefix="av2t-") as name:
            path = Path(name) / file_name(task.url)
            self._client.fetch(task.url, task.task, path)
            with opened_clip(path, settings) as clip:
                windows = _living(clip.windows())
                first = next(windows)
                masks = read_annotation(
                    self._targets,
                    task.result,
                    shape=first.image.shape[:2],
                    pages=task.pages,
                    boxes=settings.boxes_are_masks,
                )
                yield file_hash(path), chain([first], windows), masks

    def _key(self, task: AnnotatedTask, base: Version) -> str:
        """Of a clip's examples: all that they depend on. The encoders are those of the root."""
        settings, root = self._settings, base.chain[-1]
        parts = (task.task, task.url, task.annotation, task.updated_at, task.pages, root.name, root.card.sha256)
        chosen = (settings.keyframes_per_second, settings.max_keyframes, settings.boxes_are_masks, release("av2t-sam"))
        return hashlib.sha256(repr((parts, chosen)).encode()).hexdigest()[:32]


def _living(windows: Iterator[Window]) -> Iterator[Window]:
    for window in windows:
        heartbeat.beat()
        yield window
