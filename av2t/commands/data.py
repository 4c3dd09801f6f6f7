"""Look through a data set before training or evaluation."""

import argparse
import os
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from av2t.console import counted, progress_bar, report, table, writing_into
from av2t.options import Count, Json, Names
from av2t.signature import Arg, Table
from av2t_core.data import avsbench_check
from av2t_core.data.avsbench import SIZE, SPLITS, Layout, Split, read_table, table_of
from av2t_core.data.avsbench_check import Findings, in_pixels
from av2t_core.errors import AV2TError

COMMANDS: Table = {
    "check": ("av2t.commands.data:check", "name every file that is missing, damaged or of the wrong size")
}

_SHOWN_SIZES = 5
_MP4 = "clips as mp4"
_SET = "a data set"
_LAYOUTS = (
    "s4 and ms3: AVSBench-object's single-source and multi-source part; v1s and v1m: the same parts in"
    " AVSBench-semantic; clips: of any length, as av2t_core.data.real_clips writes them"
)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write WIDTHxHEIGHT in pixels, 16x16 or more")
    return int(width), int(height)


def _shares(text: str) -> tuple[int, int, int]:
    shares = [int(share) if share.isdecimal() else -1 for share in text.split(",")]
    if len(shares) != 3 or min(shares) < 0 or sum(shares) != 100:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be the percentages of train, val and test, which add up to 100, such as 70,15,15"
        )
    return shares[0], shares[1], shares[2]


Part = Literal["s4", "ms3"]
Shares = Annotated[tuple[int, int, int], _shares]
Size = Annotated[tuple[int, int], _size]


def compose(
    out: Annotated[Path, Arg("folder for the clips; made if it is missing", "OUT")],
    *,
    cutouts: Annotated[Path, Arg("folder with the photographs and recordings")],
    clips: Annotated[Count, Arg("how many")] = 10,
    seed: Annotated[int, Arg("the first clip's seed")] = 0,
    things: Annotated[Count, Arg("at most so many that sound (default: 3; one in s4)")] = 3,
    labels: Annotated[Names | None, Arg("only these classes, as a,b,c")] = None,
    generated_backgrounds: Annotated[bool, Arg("use none of the photographs")] = False,
    later: Annotated[bool, Arg("the classes in CUTOUTS/later instead of sounding")] = False,
    jobs: Annotated[Count | None, Arg("processes (default: one for each core)", "N")] = None,
    seconds: Annotated[Count | None, Arg("length of a clip (default: 5)", group=_MP4)] = None,
    size: Annotated[Size | None, Arg("default: one of several for each clip", "WxH", group=_MP4)] = None,
    fps: Annotated[Count | None, Arg("frames a second (default: one of several for each clip)", group=_MP4)] = None,
    part: Annotated[Split | None, Arg("only what this split of a data set may use (default: all)", group=_MP4)] = None,
    layout: Annotated[Part | None, Arg("s4: one thing sounds; ms3: two or more by turns", group=_SET)] = None,
    split: Annotated[
        Shares | None, Arg("percent of train, val and test (default: 70,15,15)", "A,B,C", group=_SET)
    ] = None,
    held_out: Annotated[
        bool, Arg("only photographs and recordings for val and test that train lacks", group=_SET)
    ] = False,
) -> None:
    """Compose clips in which things move over a background and sound by turns, with the exact mask of what sounds.

    CUTOUTS is a folder with sounding/<class>/image_*.png (with alpha) and sound_*.flac, and, if there are any,
    silent/*.png and backgrounds/*.jpg; docs/composed-clips.md tells how to make one. Each clip becomes OUT/NNN.mp4 with
    OUT/NNN/masks/KKK.png for every second and OUT/NNN/truth.json. The same seed composes the same clips.

    With --layout the clips become a data set in the files and folders of AVSBench's single-source (s4) or multi-source
    (ms3) part instead: five seconds each, a frame a second at 224x224, and 16 kHz sound. Its splits share no background
    and nothing silent, and none of them has the last photograph or recording of a class with several; --held-out
    composes val and test of these alone.

    examples:
      av2t compose clips --cutouts cutouts --clips 20
      av2t compose ms3 --cutouts cutouts --layout ms3 --clips 200
      av2t compose new --cutouts cutouts --layout s4 --clips 100 --split 0,0,100 --held-out
    """
    if layout is None and (split or held_out):
        option = "--split" if split else "--held-out"
        raise AV2TError(f"{option} is about the splits of a data set; it goes with --layout s4 or --layout ms3 only")
    of_clips = {"seconds": seconds, "size": size, "fps": fps, "part": part}
    if layout and (name := next((name for name, value in of_clips.items() if value is not None), None)):
        why = "AVSBench's clips have five seconds and a frame a second at 224x224"
        if name == "part":
            why = "a data set has all splits; --split says how much of each"
        raise AV2TError(f"--{name} does not go with --layout: {why}")
    if layout == "ms3" and things < 2:
        raise AV2TError("--things 1: in ms3 two or more sound by turns")
    from av2t_core.data.composed_clip import in_order, write_drawn_clip
    from av2t_core.data.composed_set import SetRecipe, write_set
    from av2t_core.data.cutouts import Cutouts

    found = Cutouts.load(cutouts, "later" if later else "sounding")
    labels = labels or found.labels
    if unknown := sorted(set(labels) - set(found.labels)):
        raise AV2TError(f"--labels: {cutouts} has no {', '.join(unknown)}; it has {', '.join(found.labels)}")
    if generated_backgrounds:
        found = replace(found, backgrounds=())
    # A process takes longer to start than a few clips take.
    processes = jobs or min(len(os.sched_getaffinity(0)), 1 + clips // 20)
    made = f"{clips} clips"
    with writing_into(out), progress_bar("composing", clips, "clips") as bar:
        if layout is None:
            own = replace(found.part(part) if part else found, labels=labels)
            most = min(things, len(labels))
            write = partial(write_drawn_clip, out, own, seed, most, seconds or 5, size, fps)
            in_order(write, clips, processes, bar.update)
        else:
            recipe = SetRecipe(layout=layout, clips=clips, labels=labels, seed=seed, most=things, new=held_out)
            if split:
                recipe = replace(recipe, shares=split)
            write_set(out, found, recipe, bar.update, processes)
            counts = Counter(recipe.splits)
            made += f" ({', '.join(f'{name} {counts[name]}' for name in SPLITS)})"
    print(f"{made} in {out}")


def check(
    root: Annotated[Path, Arg("folder of the data set", "ROOT")],
    *,
    layout: Annotated[Layout, Arg(_LAYOUTS)],
    json: Json = False,
) -> int:
    """Read every file of a data set in one of AVSBench's layouts, and name each that would stop a training or spoil a
    score.

    ROOT is the folder with the table (s4_meta_data.csv, ms3_meta_data.csv, metadata.csv), or the one above
    Single-source/ and Multi-sources/. Problems are files that are missing, cannot be decoded or are of another size
    than what they belong to, sound that ends before the last frame's second, and videos that the table names twice. The
    exit status is 1 if there are any.

    examples:
      av2t data check AVSBench --layout ms3
      av2t data check AVSBench-semantic --layout v1s --json
    """
    clips = read_table(root, layout)
    with progress_bar("checking", len(clips), "clips") as bar:
        findings = avsbench_check.check(root, layout, clips, bar.update)
    source = table_of(root, layout)
    notes = []
    if layout in ("s4", "ms3") and any(size != (SIZE, SIZE) for size in findings.frame_sizes):
        notes.append(f"Not all are {SIZE}x{SIZE}, as AVSBench's are: scores are compared at that size.")
    found = {
        **{"root": str(root), "layout": layout, "table": str(source)},
        "splits": {split: asdict(counts) for split, counts in findings.splits.items()},
        "frame_sizes": {in_pixels(size): count for size, count in findings.frame_sizes.most_common()},
        "notes": notes,
        "problems": [asdict(problem) for problem in findings.problems],
    }
    report(found, [f"{source}, layout {layout}", *_lines(findings, notes)], json=json, indent=2)
    return 1 if findings.problems else 0


def _lines(findings: Findings, notes: list[str]) -> list[str]:
    splits = [[split, *map(str, (its.clips, its.masks, its.empty_masks))] for split, its in findings.splits.items()]
    sizes = findings.frame_sizes.most_common()
    shown = [[in_pixels(size), str(count)] for size, count in sizes[:_SHOWN_SIZES]]
    if rest := sizes[_SHOWN_SIZES:]:
        shown.append([f"{len(rest)} others", str(sum(count for _, count in rest))])
    lines = table("What there is", [["split", "clips", "masks", "empty masks"], *splits])
    lines += table("Sizes", [["size", "frames"], *shown])
    lines += [f"  {note}" for note in notes]
    lines += table("Problems", [[problem.file, problem.problem] for problem in findings.problems])
    clips = counted(sum(counts.clips for counts in findings.splits.values()), "clip")
    problems = len(findings.problems)
    return [*lines, "", f"{counted(problems, 'problem')} in {clips}" if problems else f"All is well in {clips}"]
