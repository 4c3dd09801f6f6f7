"""`av2t scores`: how far the scores of an embedded version can be trusted."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from av2t.console import progress_bar
from av2t.options import add_model, count
from av2t_core.errors import AV2TError
from av2t_core.versions.version import resolve
from worker.settings import Settings

if TYPE_CHECKING:
    from av2t_core.evaluation.reliability import Reliability

DESCRIPTION = """\
Measure how far the scores of a model version can be trusted: of all masks that it calls right with 80 %, are four of
five right? On clips composed for it, of backgrounds and silent things that its training has not seen.

Three scores are looked at: `presence`, that something in view sounds; `object`, that a thing's mask overlaps what
sounds by more than half; `keyframe`, that all that is masked does so, or that nothing
sounds where nothing is masked."""

EXAMPLE = """example:
  av2t scores --cutouts cutouts --out reliability.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLE
    parser.add_argument("--cutouts", type=Path, required=True, help="folder with the photographs and recordings")
    add_model(parser)
    parser.add_argument("--out", metavar="PNG", type=Path, help="draw a diagram into this file")
    parser.add_argument("--clips", metavar="N", type=count, default=200, help="of five seconds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    settings = Settings.load(model=args.model, device=args.device, precision=args.precision)
    version = resolve(settings.model, settings.models_dir)
    version.check()
    if version.card.calibration is None:
        raise AV2TError(f"model version {version.name} has no calibration, so its scores are no probabilities")
    from av2t_core.data.cutouts import Cutouts
    from av2t_core.evaluation.reliability import measure, write_diagram
    from av2t_core.prediction.predictor import Predictor

    cutouts = Cutouts.load(args.cutouts)
    predictor = Predictor.load(
        version.name, settings.device, models_dir=settings.models_dir, precision=settings.precision
    )
    with progress_bar("clips", 5 * args.clips, "keyframes") as bar:
        measured = measure(predictor, cutouts, args.clips, args.seed, done=bar.update)
    if args.out is not None:
        write_diagram(args.out, measured)
    print(json.dumps({k: asdict(r) for k, r in measured.items()}) if args.json else _text(measured))
    return 0


def _text(measured: "dict[str, Reliability]") -> str:
    lines = []
    for name, reliability in measured.items():
        lines.append(f"{name}: off by {reliability.error:.3f}")
        lines += [f"  said {each.said:4.0%}, was {each.was:4.0%} of {each.count}" for each in reliability.bins]
    return "\n".join(lines)
