"""`av2t data`: a data set as it lies on disk, looked through file by file."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from av2t.console import progress_bar, table
from av2t_core.data.avsbench import LAYOUTS, SIZE, read_table, table_of
from av2t_core.data.avsbench_check import Findings, check, in_pixels

_CHECK = """\
Read every file of a data set in one of AVSBench's layouts, and name each that would stop a training or spoil a score.

ROOT is the folder with the table (s4_meta_data.csv, ms3_meta_data.csv, metadata.csv), or the one above Single-source/
and Multi-sources/. Problems are files that are missing, cannot be decoded or are of another size than what they belong
to, sound that ends before the last frame's second, and videos that the table names twice. The exit status is 1 if there
are any.
"""
_EXAMPLES = """\
examples:
  av2t data check AVSBench --layout ms3
  av2t data check AVSBench-semantic --layout v1s --json
"""
_SHOWN_SIZES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    look = actions.add_parser(
        "check",
        help="name every file that is missing, damaged or of the wrong size",
        description=_CHECK,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    look.add_argument("root", metavar="ROOT", type=Path, help="folder of the data set")
    look.add_argument(
        "--layout",
        choices=LAYOUTS,
        required=True,
        help="s4 and ms3: AVSBench-object's single-source and multi-source part; v1s and v1m: the same parts in"
        " AVSBench-semantic",
    )
    look.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    clips = read_table(args.root, args.layout)
    with progress_bar("looking", len(clips), "clips") as bar:
        findings = check(args.root, args.layout, clips, bar.update)
    print(json.dumps(_as_json(args, findings), indent=2) if args.json else "\n".join(_lines(args, findings)))
    return 1 if findings.problems else 0


def _as_json(args: argparse.Namespace, findings: Findings) -> dict[str, Any]:
    return {
        "root": str(args.root),
        "layout": args.layout,
        "table": str(table_of(args.root, args.layout)),
        "splits": {split: asdict(counts) for split, counts in findings.splits.items()},
        "frame_sizes": {in_pixels(size): count for size, count in findings.frame_sizes.most_common()},
        "notes": _notes(args, findings),
        "problems": [asdict(problem) for problem in findings.problems],
    }


def _lines(args: argparse.Namespace, findings: Findings) -> list[str]:
    splits = [
        [split, str(counts.clips), str(counts.masks), str(counts.empty_masks)]
        for split, counts in findings.splits.items()
    ]
    sizes = findings.frame_sizes.most_common()
    shown = [[in_pixels(size), str(count)] for size, count in sizes[:_SHOWN_SIZES]]
    if rest := sizes[_SHOWN_SIZES:]:
        shown.append([f"{len(rest)} others", str(sum(count for _, count in rest))])
    lines = [f"{table_of(args.root, args.layout)}, layout {args.layout}"]
    lines += table("What there is", [["split", "clips", "masks", "empty masks"], *splits])
    lines += table("Sizes", [["size", "frames"], *shown])
    lines += [f"  {note}" for note in _notes(args, findings)]
    lines += table("Problems", [[problem.file, problem.problem] for problem in findings.problems])
    clips = _count(sum(counts.clips for counts in findings.splits.values()), "clip")
    problems = len(findings.problems)
    return [*lines, "", f"{_count(problems, 'problem')} in {clips}" if problems else f"All is well in {clips}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _notes(args: argparse.Namespace, findings: Findings) -> list[str]:
    """What is no problem and yet good to know."""
    if args.layout in ("s4", "ms3") and any(size != (SIZE, SIZE) for size in findings.frame_sizes):
        return [f"Not all are {SIZE}x{SIZE}, as AVSBench's are: scores are compared at that size."]
    return []
