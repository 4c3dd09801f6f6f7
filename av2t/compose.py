"""`av2t compose`: make audio-visual clips with exact masks from photographs with alpha and recordings."""

import argparse
from dataclasses import replace
from pathlib import Path

DESCRIPTION = """\
Compose clips in which things move over a background and sound by turns, with the exact mask of what sounds.

CUTOUTS is a folder with sounding/<class>/image_*.png (with alpha) and sound_*.flac, and, if there are any,
silent/*.png and backgrounds/*.jpg. Each clip becomes OUT/NNN.mp4 with OUT/NNN/masks/KKK.png for every second and
OUT/NNN/truth.json. The same seed composes the same clips.

  av2t compose clips --cutouts cutouts --clips 20
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the clips; made if it is missing")
    parser.add_argument("--cutouts", type=Path, required=True, help="folder with the photographs and recordings")
    parser.add_argument("--clips", type=_count, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first clip's seed (default: %(default)s)")
    parser.add_argument("--seconds", type=_count, default=5, help="length of a clip (default: %(default)s)")
    parser.add_argument("--things", type=_count, default=3, help="at most so many that sound (default: %(default)s)")
    parser.add_argument("--size", type=_size, default=(480, 270), metavar="WxH", help="default: 480x270")
    parser.add_argument("--fps", type=_count, default=15, help="frames a second (default: %(default)s)")
    parser.add_argument("--labels", type=lambda text: text.split(","), help="only these classes, as a,b,c")
    parser.add_argument("--generated-backgrounds", action="store_true", help="use none of the photographs")


def run(args: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    from av2t_core.compose.clip import draw_recipe, write_clip
    from av2t_core.compose.cutouts import Cutouts
    from av2t_core.errors import AV2TError

    cutouts = Cutouts.load(args.cutouts)
    labels = args.labels or list(cutouts.labels)
    if unknown := sorted(set(labels) - set(cutouts.labels)):
        raise AV2TError(f"--labels: {args.cutouts} has no {', '.join(unknown)}; it has {', '.join(cutouts.labels)}")
    if args.generated_backgrounds:
        cutouts = replace(cutouts, backgrounds=())
    width, height = args.size
    for index in tqdm(range(args.clips), "clips", disable=None):
        rng = np.random.default_rng([args.seed, index])
        recipe = draw_recipe(
            rng,
            labels,
            seconds=args.seconds,
            most=min(args.things, len(labels)),
            width=width,
            height=height,
            fps=args.fps,
        )
        write_clip(rng, cutouts, recipe, args.out / f"{index:03}")
    print(f"{args.clips} clips in {args.out}")
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write WIDTHxHEIGHT in pixels, 16x16 or more")
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)
