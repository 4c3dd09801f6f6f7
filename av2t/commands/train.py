"""`av2t train`: the paper's training on a data set in one of AVSBench's layouts."""

import argparse
from pathlib import Path

from av2t.console import note, progress_bar
from av2t.mirror import share
from av2t.options import count, number, positive
from av2t_core.data.avsbench import LAYOUTS
from av2t_core.errors import ConfigError
from av2t_core.model.presets import NO_ADAPTER, PRESETS
from av2t_core.training.plan import PaperRecipe, Plan, make_plan
from av2t_core.versions.published import FEATURES
from av2t_core.versions.version import resolve
from worker.settings import Settings

DESCRIPTION = """\
Train a model version on AVSBench, or on a data set in one of its layouts, by the paper's recipe: cross-entropy plus
soft IoU, AdamW, a learning rate that falls along a cosine. Of all epochs the one with the best validation IoU is kept.

What learns are the projector, the adapters, what writes SAM's prompt, and SAM's mask decoder; the encoders, BEiT-3 and
the rest of SAM stay as the start has them. Run the same command again after an interruption, and it goes on.

AV2T_DATA_DIR/runs/NAME holds the log, the curves (`tensorboard --logdir`) and curve.png; AV2T_DATA_DIR/models/NAME is
the model version."""

EXAMPLES = """examples:
  av2t weights pull sam2-l --start
  av2t train Multi-sources --layout ms3 --preset sam2-l --name sam2-l-mine
  av2t evaluate Multi-sources --layout ms3 --model sam2-l-mine

on several GPUs, and on a CPU with two processes:
  accelerate launch --multi_gpu --num_processes 4 -m av2t train …
  torchrun --nproc-per-node 2 -m av2t train … --device cpu"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLES
    parser.add_argument("root", type=Path, metavar="ROOT", help="the data set's folder; see `av2t data check`")
    parser.add_argument("--layout", choices=LAYOUTS, required=True, help="how it lies on disk")
    parser.add_argument("--name", required=True, help="of the model version, as Label Studio will show it")
    what = parser.add_argument_group("what is trained")
    what.add_argument("--preset", choices=base_presets(), default="tiny", help="default: %(default)s")
    what.add_argument("--feature", choices=FEATURES, default="mul", help="what f is made of (default: %(default)s)")
    what.add_argument("--adapter", action=argparse.BooleanOptionalAction, default=True, help="default: with adapters")
    what.add_argument("--start", metavar="VERSION", help="model version to start from (default: the preset's)")
    add_recipe(parser)
    add_running(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The options of `recipe_of`, and --precision."""
    default = PaperRecipe()
    recipe = parser.add_argument_group("the recipe")
    recipe.add_argument("--epochs", type=count, default=default.epochs, help="default: %(default)s")
    recipe.add_argument("--batch", type=count, default=default.batch, metavar="CLIPS", help="default: %(default)s")
    recipe.add_argument("--lr", type=positive, default=default.lr, help="in the first epoch (default: %(default)s)")
    recipe.add_argument("--weight-decay", type=number, default=default.weight_decay, help="default: %(default)s")
    recipe.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    recipe.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="default: %(default)s")


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options that `train` reads beside a plan."""
    running = parser.add_argument_group("how it runs, which does not change what it gives")
    running.add_argument("--device", help="auto, cpu or cuda (AV2T_DEVICE; default: auto)")
    running.add_argument(
        "--accumulate", type=count, metavar="N", help="take each batch in N parts (default: a clip a part; tiny: 1)"
    )
    running.add_argument(
        "--recompute",
        action=argparse.BooleanOptionalAction,
        help="keep only the input of each block and compute the rest twice (default: yes; tiny: no)",
    )
    running.add_argument(
        "--cache-gb",
        type=number,
        default=20.0,
        metavar="GB",
        help="of frozen results in AV2T_DATA_DIR/cache; 0 keeps none (default: %(default)s)",
    )
    running.add_argument(
        "--checkpoint-steps", type=count, default=50, metavar="N", help="batches between two (default: %(default)s)"
    )


def base_presets() -> list[str]:
    """Those that --no-adapter may be said of."""
    return [preset for preset in PRESETS if not preset.endswith(NO_ADAPTER)]


def recipe_of(args: argparse.Namespace) -> PaperRecipe:
    return PaperRecipe(epochs=args.epochs, batch=args.batch, lr=args.lr, weight_decay=args.weight_decay, seed=args.seed)


def run(args: argparse.Namespace) -> int:
    settings = Settings.load(device=args.device)
    plan = make_plan(
        args.root,
        args.layout,
        args.name,
        models_dir=settings.models_dir,
        preset=args.preset,
        feature=args.feature,
        adapter=args.adapter,
        start=args.start,
        recipe=recipe_of(args),
        precision=args.precision,
    )
    plan.require_new()
    folder = settings.data_dir / "runs" / plan.name
    metrics = train(plan, settings, args, folder)
    if metrics is not None:
        print(
            f"model version {plan.name} in {plan.models_dir / plan.name}: validation mIoU {metrics['val_miou']}, of"
            f" epoch {metrics['best_epoch']}\nlearning curve: {folder / 'curve.png'}",
            flush=True,
        )
        share(resolve(plan.name, plan.models_dir))
    return 0


def train(plan: Plan, settings: Settings, args: argparse.Namespace, folder: Path) -> dict[str, float] | None:
    """What `train_version` gives; None in all processes but the first."""
    if settings.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"a training cannot run on {settings.device!r}: use cuda, and CUDA_VISIBLE_DEVICES to choose")
    from av2t_core.training.train import train_version
    from av2t_core.training.trainer import Schedule

    tiny = plan.preset.startswith("tiny")
    schedule = Schedule(
        parts=args.accumulate or (1 if tiny else plan.recipe.batch),
        recompute=not tiny if args.recompute is None else args.recompute,
        checkpoint_steps=args.checkpoint_steps,
    )
    return train_version(
        plan,
        schedule,
        folder,
        device=settings.device,
        cache=(settings.data_dir / "cache", round(args.cache_gb * 1e9)),
        bar=progress_bar,
        say=note,
    )
