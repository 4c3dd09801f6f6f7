"""`av2t pretrain`: make the embedded model, by the committed recipe."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Make a model version of the preset tiny: its encoders, its segmenter and all that is AV2T-SAM's own. It sees by
EfficientNet-Lite0, which begins with what it learned on ImageNet; everything else begins with nothing.

CUTOUTS is a folder as `av2t compose` reads it (docs/composed-clips.md). OUT keeps what each stage learned: run the same
command again after an interruption, and it goes on. At the end OUT/NAME holds the model version, and OUT/NAME-held-out
what it was before the last stage: where a class has several photographs or recordings, one of them was new to it, so
that it can be measured on what it has never met (`av2t compose --held-out`). Some four hours on two cores.

  av2t pretrain runs/tiny --cutouts cutouts --name mine --processes 2

With --start an embedded version learns on instead, from all of them, and OUT/NAME alone is kept. Another --seed draws
other pictures and sounds:

  av2t pretrain runs/on --cutouts cutouts --name mine --processes 2 --start tiny-6 --seed 10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the stages and the model version")
    parser.add_argument("--cutouts", type=Path, required=True, help="folder with the photographs and recordings")
    parser.add_argument("--name", required=True, help="name of the model version, as Label Studio will show it")
    parser.add_argument("--start", metavar="VERSION", help="an embedded version to go on from")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="that share the work; one for each core is best")


def run(args: argparse.Namespace) -> int:
    from av2t_core.data.cutouts import Cutouts
    from av2t_core.errors import WeightsError
    from av2t_core.pretraining.tiny_recipe import TinyRecipe, keep_version, train_tiny
    from av2t_core.versions.names import check_name
    from av2t_core.versions.version import resolve

    ends = ("",) if args.start else ("", "-held-out")
    versions = {args.out / check_name(f"{args.name}{end}"): not end for end in ends}
    for directory in versions:
        if directory.exists():
            raise WeightsError(f"{directory} exists; a model version is never changed, choose another --name")
    cutouts = Cutouts.load(args.cutouts)
    recipe = TinyRecipe(seed=args.seed)
    if args.start:
        version = resolve(args.start)
        if version.card.labels != cutouts.labels:
            raise WeightsError(
                f"{version.name} cannot learn on from {args.cutouts}: it knows {len(version.card.labels)} classes,"
                f" which are not the {len(cutouts.labels)} that are there"
            )
        recipe = TinyRecipe.onward(version.name, args.seed)
    train_tiny(cutouts, args.out, recipe=recipe, processes=args.processes)
    for directory, settled in versions.items():
        keep_version(cutouts, args.out, recipe=recipe, directory=directory, settled=settled)
        print(f"model version {directory.name} in {directory}")
    return 0
