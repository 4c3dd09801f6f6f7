"""`av2t compose`: make audio-visual clips with exact masks from photographs with alpha and recordings."""

import argparse
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from av2t.console import progress_bar
from av2t.options import count
from av2t_core.data.avsbench import SPLITS
from av2t_core.errors import AV2TError

if TYPE_CHECKING:
    from av2t_core.data.cutouts import Cutouts

DESCRIPTION = """\
Compose clips in which things move over a background and sound by turns, with the exact mask of what sounds.

CUTOUTS is a folder with sounding/<class>/image_*.png (with alpha) and sound_*.flac, and, if there are any,
silent/*.png and backgrounds/*.jpg; docs/composed-clips.md tells how to make one. Each clip becomes OUT/NNN.mp4 with
OUT/NNN/masks/KKK.png for every second and OUT/NNN/truth.json. The same seed composes the same clips.

With --layout the clips become a data set in the files and folders of AVSBench's single-source (s4) or multi-source
(ms3) part instead: five seconds each, a frame a second at 224x224, and 16 kHz sound. Its splits share no background
and nothing silent, and none of them has the last photograph or recording of a class with several; --held-out composes
val and test of these alone.

  av2t compose clips --cutouts cutouts --clips 20
  av2t compose ms3 --cutouts cutouts --layout ms3 --clips 200
  av2t compose new --cutouts cutouts --layout s4 --clips 100 --split 0,0,100 --held-out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the clips; made if it is missing")
    parser.add_argument("--cutouts", type=Path, required=True, help="folder with the photographs and recordings")
    parser.add_argument("--clips", type=count, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first clip's seed (default: %(default)s)")
    parser.add_argument("--things", type=count, default=3, help="at most so many that sound (default: 3; one in s4)")
    parser.add_argument("--labels", type=lambda text: text.split(","), help="only these classes, as a,b,c")
    parser.add_argument("--generated-backgrounds", action="store_true", help="use none of the photographs")
    parser.add_argument("--later", action="store_true", help="the classes in CUTOUTS/later instead of sounding")
    parser.add_argument("--jobs", type=count, metavar="N", help="processes (default: one for each core)")
    clips = parser.add_argument_group("clips as mp4")
    clips.add_argument("--seconds", type=count, help="length of a clip (default: 5)")
    clips.add_argument("--size", type=_size, metavar="WxH", help="default: one of several for each clip")
    clips.add_argument("--fps", type=count, help="frames a second (default: one of several for each clip)")
    clips.add_argument("--part", choices=SPLITS, help="only what this split of a data set may use (default: all)")
    data_set = parser.add_argument_group("a data set")
    data_set.add_argument("--layout", choices=("s4", "ms3"), help="s4: one thing sounds; ms3: two or more by turns")
    data_set.add_argument(
        "--split", type=_shares, metavar="A,B,C", help="percent of train, val and test (default: 70,15,15)"
    )
    data_set.add_argument(
        "--held-out", action="store_true", help="val and test: only photographs and recordings that train never has"
    )


def run(args: argparse.Namespace) -> int:
    _refuse_what_does_not_go_together(args)
    from av2t_core.data.cutouts import Cutouts

    cutouts = Cutouts.load(args.cutouts, "later" if args.later else "sounding")
    labels = tuple(dict.fromkeys(args.labels or cutouts.labels))
    if unknown := sorted(set(labels) - set(cutouts.labels)):
        raise AV2TError(f"--labels: {args.cutouts} has no {', '.join(unknown)}; it has {', '.join(cutouts.labels)}")
    if args.generated_backgrounds:
        cutouts = replace(cutouts, backgrounds=())
    try:
        print(f"{(_set if args.layout else _clips)(args, cutouts, labels)} in {args.out}")
    except OSError as error:
        raise AV2TError(f"{args.out}: cannot be written ({error.strerror or error}); choose another folder") from error
    return 0


def _refuse_what_does_not_go_together(args: argparse.Namespace) -> None:
    if args.layout is None:
        if args.split or args.held_out:
            option = "--split" if args.split else "--held-out"
            raise AV2TError(
                f"{option} is about the splits of a data set; it goes with --layout s4 or --layout ms3 only"
            )
        return
    for option in ("seconds", "size", "fps"):
        if getattr(args, option) is not None:
            raise AV2TError(
                f"--{option} does not go with --layout: AVSBench's clips have five seconds and a frame a second at"
                " 224x224"
            )
    if args.part is not None:
        raise AV2TError("--part does not go with --layout: a data set has all splits; --split says how much of each")
    if args.layout == "ms3" and args.things < 2:
        raise AV2TError("--things 1: in ms3 two or more sound by turns")


def _clips(args: argparse.Namespace, cutouts: "Cutouts", labels: tuple[str, ...]) -> str:
    from av2t_core.data.composed_clip import ClipWriter, in_order

    writer = ClipWriter(
        out=args.out,
        cutouts=replace(cutouts.part(args.part) if args.part else cutouts, labels=labels),
        seed=args.seed,
        most=min(args.things, len(labels)),
        seconds=args.seconds or 5,
        size=args.size,
        fps=args.fps,
    )
    with progress_bar("composing", args.clips, "clips") as bar:
        in_order(writer, args.clips, _jobs(args), bar.update)
    return f"{args.clips} clips"


def _set(args: argparse.Namespace, cutouts: "Cutouts", labels: tuple[str, ...]) -> str:
    from av2t_core.data.composed_set import SetRecipe, write_set

    recipe = SetRecipe(
        layout=args.layout, clips=args.clips, labels=labels, seed=args.seed, most=args.things, new=args.held_out
    )
    if args.split:
        recipe = replace(recipe, shares=args.split)
    with progress_bar("composing", args.clips, "clips") as bar:
        write_set(args.out, cutouts, recipe, bar.update, _jobs(args))
    counts = Counter(recipe.splits)
    return f"{args.clips} clips ({', '.join(f'{split} {counts[split]}' for split in SPLITS)})"


def _jobs(args: argparse.Namespace) -> int:
    """A process takes longer to start than a few clips take."""
    return int(args.jobs or min(len(os.sched_getaffinity(0)), 1 + args.clips // 20))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write WIDTHxHEIGHT in pixels, 16x16 or more")
    return int(width), int(height)


def _shares(text: str) -> tuple[int, ...]:
    shares = text.split(",")
    if len(shares) != 3 or not all(map(str.isdecimal, shares)) or sum(map(int, shares)) != 100:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be the percentages of train, val and test, which add up to 100, such as 70,15,15"
        )
    return tuple(map(int, shares))
