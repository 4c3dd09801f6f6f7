"""The plan of a training, checked before anything that takes seconds: nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from av2t_core.data.avsbench import LabelledClip, Layout, missing_files, read_clips, refuse_missing, table_of
from av2t_core.errors import AV2TError
from av2t_core.files import file_hash
from av2t_core.model.config import Feature
from av2t_core.model.presets import NO_ADAPTER, PRESETS
from av2t_core.versions.names import check_name
from av2t_core.versions.version import Version, resolve, resolve_start


class TrainingError(AV2TError):
    """A training cannot go on, or cannot begin as it was asked for."""


@dataclass(frozen=True, kw_only=True)
class PaperRecipe:
    """The paper's 40 epochs of AdamW; what it leaves open is as its authors' code has it.

    `lr` falls along half a cosine to `final_lr` over `epochs`; `batch` is in clips, over all processes.
    """

    epochs: int = 40
    batch: int = 8
    lr: float = 2e-4
    final_lr: float = 1e-7
    weight_decay: float = 0.01
    seed: int = 123


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the result of a training depends on. The version goes to `models_dir`, as `name`."""

    name: str
    preset: str
    feature: Feature
    start: Version
    layout: Layout
    table: Path
    training: Sequence[LabelledClip]
    validation: Sequence[LabelledClip]
    recipe: PaperRecipe
    precision: Literal["fp32", "bf16"]
    models_dir: Path

    @property
    def directory(self) -> Path:
        """Of the model version."""
        return self.models_dir / self.name

    def require_same(self) -> None:
        """TrainingError: the model version of this name, which there must be, was not trained by this plan."""
        card = resolve(self.name, self.models_dir).card.as_json()
        if any(card.get(key) != value for key, value in self.card.items()):
            raise TrainingError(f"{self.directory} was trained by another recipe or on other data: choose another name")

    @property
    def card(self) -> dict[str, Any]:
        """What the model version's card says of it, and what must be the same to go on with a training."""
        return {
            "preset": self.preset,
            "feature": self.feature,
            "recipe": {"start": self.start.name, "precision": self.precision, **asdict(self.recipe)},
            "data": {
                "layout": self.layout,
                "table_sha256": file_hash(self.table),
                "training_clips": len(self.training),
                "validation_clips": len(self.validation),
            },
        }


def make_plan(
    root: Path,
    layout: Layout,
    name: str,
    *,
    models_dir: Path,
    preset: str,
    feature: Feature = "mul",
    adapter: bool = True,
    start: str | None = None,
    recipe: PaperRecipe,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Plan:
    """AV2TError: something that is named is not there. Whether there is such a model version is not looked at."""
    full = preset if adapter else preset + NO_ADAPTER
    if full not in PRESETS:
        raise TrainingError(f"there is no preset {full}: {preset} is with adapters only")
    if PRESETS[full].finder:
        raise TrainingError(
            f"{full} finds things by their names, and learns from what people correct in a project; choose a preset"
            " without a finder, as sam2-l"
        )
    table = table_of(root, layout)
    training, validation = (read_clips(root, layout, split) for split in ("train", "val"))
    refuse_missing(missing_files([*training, *validation]), root, layout)
    version = resolve_start(full, start, models_dir)
    version.check_files()
    return Plan(
        name=check_name(name),
        preset=full,
        feature=feature,
        start=version,
        layout=layout,
        table=table,
        training=training,
        validation=validation,
        recipe=recipe,
        precision=precision,
        models_dir=models_dir,
    )
