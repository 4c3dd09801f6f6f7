"""`av2t train`, the paper's training on a data set in one of AVSBench's layouts, and `av2t pretrain`, by which the
tests' model is made."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from av2t.console import note, progress_bar
from av2t.options import Count, Number, Positive, load_settings, share
from av2t.signature import Arg
from av2t_core.data.avsbench import Layout
from av2t_core.errors import ConfigError, WeightsError
from av2t_core.model.config import Feature
from av2t_core.model.presets import NO_ADAPTER, PRESETS
from av2t_core.settings import ModelSettings
from av2t_core.training.plan import PaperRecipe, Plan, make_plan
from av2t_core.versions.names import check_name, require_new
from av2t_core.versions.version import resolve

BASE_PRESETS = [preset for preset in PRESETS if not preset.endswith(NO_ADAPTER)]
"""Those that --no-adapter may be said of."""

_WHAT = "what is trained"


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    epochs: Count = PaperRecipe.epochs
    batch: Annotated[Count, Arg(metavar="CLIPS")] = PaperRecipe.batch
    lr: Annotated[Positive, Arg("in the first epoch")] = PaperRecipe.lr
    weight_decay: Number = PaperRecipe.weight_decay
    seed: int = PaperRecipe.seed
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def recipe(self) -> PaperRecipe:
        return PaperRecipe(**{name: value for name, value in asdict(self).items() if name != "precision"})

    def plan(self, root: Path, layout: Layout, name: str, settings: ModelSettings, **made_of: Any) -> Plan:
        """Of what is `made_of`, as `make_plan` takes it."""
        recipe, models_dir = self.recipe, settings.models_dir
        return make_plan(root, layout, name, models_dir=models_dir, recipe=recipe, precision=self.precision, **made_of)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    device: Annotated[str | None, Arg("auto, cpu or cuda (AV2T_DEVICE; default: auto)")] = None
    accumulate: Annotated[Count | None, Arg("take each batch in N parts (default: a clip a part; tiny: 1)", "N")] = None
    recompute: Annotated[
        bool | None, Arg("keep each block's input and compute the rest twice (default: yes; tiny: no)")
    ] = None
    cache_gb: Annotated[Number, Arg("of frozen results in AV2T_DATA_DIR/cache; 0 keeps none", "GB")] = 20.0
    checkpoint_steps: Annotated[Count, Arg("batches between two", "N")] = 50


Recipe = Annotated[RecipeOptions, Arg(group="the recipe")]
Running = Annotated[RunOptions, Arg(group="how it runs, which does not change what it gives")]


def train(
    root: Annotated[Path, Arg("the data set's folder; see `av2t data check`", "ROOT")],
    *,
    layout: Annotated[Layout, Arg("how it lies on disk")],
    name: Annotated[str, Arg("of the model version, as Label Studio will show it")],
    preset: Annotated[str, Arg(choices=BASE_PRESETS, group=_WHAT)] = "tiny",
    feature: Annotated[Feature, Arg("what f is made of", group=_WHAT)] = "mul",
    adapter: Annotated[bool, Arg("default: with adapters", group=_WHAT)] = True,
    start: Annotated[str | None, Arg("version to start from (default: the preset's)", "VERSION", group=_WHAT)] = None,
    options: Recipe,
    running: Running,
) -> None:
    """Train a model version on AVSBench, or on a data set in one of its layouts, by the paper's recipe: cross-entropy
    plus soft IoU, AdamW, a learning rate that falls along a cosine. Of all epochs the one with the best validation IoU
    is kept.

    What learns are the projector, the adapters, what writes SAM's prompt, and SAM's mask decoder; the encoders, BEiT-3
    and the rest of SAM stay as the start has them. Run the same command again after an interruption, and it goes on.

    AV2T_DATA_DIR/runs/NAME holds the log, the curves (`tensorboard --logdir`) and curve.png; AV2T_DATA_DIR/models/NAME
    is the model version.

    examples:
      av2t weights pull sam2-l --start
      av2t train Multi-sources --layout ms3 --preset sam2-l --name sam2-l-mine
      av2t evaluate Multi-sources --layout ms3 --model sam2-l-mine

    on several GPUs, and on a CPU with two processes:
      accelerate launch --multi_gpu --num_processes 4 -m av2t train …
      torchrun --nproc-per-node 2 -m av2t train … --device cpu
    """
    settings = load_settings(ModelSettings, device=running.device)
    made_of = {"preset": preset, "feature": feature, "adapter": adapter, "start": start}
    plan = options.plan(root, layout, name, settings, **made_of)
    require_new(plan.directory)
    metrics = run_plan(plan, settings, running)
    if metrics is not None:
        print(
            f"model version {plan.name} in {plan.models_dir / plan.name}: validation mIoU {metrics['val_miou']}, of"
            f" epoch {metrics['best_epoch']}\nlearning curve: {run_folder(plan, settings) / 'curve.png'}",
            flush=True,
        )
        share(resolve(plan.name, plan.models_dir), settings)


def run_folder(plan: Plan, settings: ModelSettings) -> Path:
    return settings.data_dir / "runs" / plan.name


def run_plan(plan: Plan, settings: ModelSettings, running: RunOptions) -> dict[str, float] | None:
    """What `train_version` gives; None in all processes but the first."""
    if settings.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"a training cannot run on {settings.device!r}: use cuda, and CUDA_VISIBLE_DEVICES to choose")
    from av2t_core.training.train import Schedule, train_version

    tiny = plan.preset.startswith("tiny")
    schedule = Schedule(
        parts=running.accumulate or (1 if tiny else plan.recipe.batch),
        recompute=not tiny if running.recompute is None else running.recompute,
        checkpoint_steps=running.checkpoint_steps,
    )
    return train_version(
        plan,
        schedule,
        run_folder(plan, settings),
        device=settings.device,
        cache=(settings.data_dir / "cache", round(running.cache_gb * 1e9)),
        bar=progress_bar,
        say=note,
    )


def pretrain(
    out: Annotated[Path, Arg("folder for the stages and the model version", "OUT")],
    *,
    cutouts: Annotated[Path, Arg("folder with the photographs and recordings")],
    name: Annotated[str, Arg("name of the model version, as Label Studio will show it")],
    start: Annotated[str | None, Arg("a version of tiny to go on from", "VERSION")] = None,
    seed: int = 7,
    processes: Annotated[int, Arg("that share the work; one for each core is best")] = 1,
) -> None:
    """Make a model version of the preset tiny, which the tests run: its encoders, its segmenter and all that is
    AV2T-SAM's own. It sees by EfficientNet-Lite0, which begins with what it learned on ImageNet; everything else begins
    with nothing.

    CUTOUTS is a folder as `av2t compose` reads it (docs/composed-clips.md). OUT keeps what each stage learned: run the
    same command again after an interruption, and it goes on. At the end OUT/NAME holds the model version, and
    OUT/NAME-held-out what it was before the last stage: where a class has several photographs or recordings, one of
    them was new to it, so that it can be measured on what it has never met (`av2t compose --held-out`). Some four hours
    on two cores.

    With --start a version of tiny learns on instead, from all of them, and OUT/NAME alone is kept. Another --seed draws
    other pictures and sounds. tiny-6 comes with the repository alone.

    examples:
      av2t pretrain runs/tiny --cutouts cutouts --name mine --processes 2
      av2t pretrain runs/on --cutouts cutouts --name mine --processes 2 --start tiny-6 --seed 10
    """
    ends = ("",) if start else ("", "-held-out")
    versions = {out / check_name(f"{name}{end}"): not end for end in ends}
    for directory in versions:
        require_new(directory)
    from av2t_core.data.cutouts import Cutouts
    from av2t_core.pretraining.tiny_recipe import TinyRecipe, keep_version, train_tiny

    found = Cutouts.load(cutouts)
    recipe = TinyRecipe(seed=seed)
    if start:
        version = resolve(start)
        if version.card.labels != found.labels:
            raise WeightsError(
                f"{version.name} cannot learn on from {cutouts}: it knows {len(version.card.labels)} classes,"
                f" which are not the {len(found.labels)} that are there"
            )
        recipe = TinyRecipe.onward(version.name, seed)
    train_tiny(found, out, recipe=recipe, processes=processes)
    for directory, settled in versions.items():
        keep_version(found, out, recipe=recipe, directory=directory, settled=settled)
        print(f"model version {directory.name} in {directory}")
