"""`av2t pretrain`: make the embedded model from nothing, by the committed recipe."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Make a model version of the preset tiny from nothing: its encoders, its segmenter and all that is AV2T-SAM's own.

CUTOUTS is a folder as `av2t compose` reads it. OUT keeps what each stage learned: run the same command again after an
interruption, and it goes on. At the end OUT/NAME holds the model version: weights.safetensors and card.json.

  av2t pretrain runs/tiny --cutouts cutouts --name tiny-2 --processes 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the stages and the model version")
    parser.add_argument("--cutouts", type=Path, required=True, help="folder with the photographs and recordings")
    parser.add_argument("--name", required=True, help="name of the model version, as Label Studio will show it")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="that share the work; one for each core is best")


def run(args: argparse.Namespace) -> int:
    from av2t_core.compose.cutouts import Cutouts
    from av2t_core.errors import WeightsError
    from av2t_core.training.tiny import TinyRecipe, keep_version, train_tiny
    from av2t_core.versions import check_name

    directory = args.out / check_name(args.name)
    if directory.exists():
        raise WeightsError(f"{directory} exists; a model version is never changed, choose another --name")
    cutouts = Cutouts.load(args.cutouts)
    recipe = TinyRecipe(seed=args.seed)
    train_tiny(cutouts, args.out, recipe=recipe, processes=args.processes)
    keep_version(cutouts, args.out, recipe=recipe, directory=directory)
    print(f"model version {args.name} in {directory}")
    return 0
