"""`av2t reproduce`: the rows of the paper's Tables 1 and 2, trained and measured, beside what was published."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from av2t.commands.train import add_recipe, add_running, recipe_of, train
from av2t.console import note, progress_bar
from av2t_core.data.avsbench import LabelledClip, Layout, missing_files, read_clips, refuse_missing
from av2t_core.evaluation.hearing import Hearing, shuffled
from av2t_core.evaluation.tables import ROWS, TINY, Row, rows_of
from av2t_core.files import atomic_file
from av2t_core.training.plan import PaperRecipe, Plan, TrainingError, make_plan
from worker.settings import Settings

DESCRIPTION = """\
Train the models of the paper's Table 1 (SAM and SAM2, with adapters and without) and Table 2 (what f is made of) on
AVSBench, measure each on the test clips, and print what was measured beside what was published.

The table is in Markdown: mIoU in per cent and F, as AV2T-SAM's authors compute both, and beyond them the IoU of the
frames in which something sounds, also with the sound of another clip: what falls then was heard. A model that is
trained already is not trained again, so the same command goes on after an interruption.

`--preset tiny` repeats the comparisons with the embedded model, in minutes on a small set that `av2t compose` makes.
It shows that the machinery works, and nothing about the paper's numbers."""

EXAMPLES = """examples:
  av2t reproduce --s4 Single-source --ms3 Multi-sources
  av2t reproduce --ms3 composed --preset tiny --epochs 8 --lr 1e-3"""

LAYOUTS: tuple[Layout, ...] = ("s4", "ms3")
DATA = {"s4": "S4", "ms3": "MS3"}
CLIPS = {"s4": (3452, 740, 740), "ms3": (296, 64, 64)}
"""Of AVSBench, to train, to validate and to test (section 4.1)."""
HEARINGS: tuple[Hearing, ...] = ("own", "shuffled")
TITLES = {1: "adapters", 2: "what f is made of"}
COLUMNS = (
    "model",
    "data",
    "published mIoU / F",
    "measured mIoU / F",
    "F (AVSBench)",
    "IoU where something sounds",
    "the same, sound shuffled",
)

Numbers = dict[Hearing, dict[str, Any]]
"""By the sound, the fields of evaluation.Scores."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A model of the tables on one data set. `test` are the clips that it is measured on."""

    plan: Plan
    test: Sequence[LabelledClip]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLES
    parser.add_argument("--s4", type=Path, metavar="ROOT", help="AVSBench's single-source clips")
    parser.add_argument("--ms3", type=Path, metavar="ROOT", help="AVSBench's multi-source clips")
    presets = [*dict.fromkeys(row.preset for row in ROWS), TINY]
    parser.add_argument(
        "--preset", choices=presets, nargs="+", default=presets[:-1], help="default: the paper's, sam1-h and sam2-l"
    )
    parser.add_argument("--table", type=int, choices=[1, 2], help="only this one")
    parser.add_argument("--name", default="table", help="what the model versions' names begin with (default: table)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_recipe(parser)
    add_running(parser)


def run(args: argparse.Namespace) -> int:
    settings = Settings.load(device=args.device)
    cells = _cells(args, settings)
    measured: dict[str, Numbers] = {}
    for number, cell in enumerate(cells.values(), start=1):
        found = _measured(cell, settings, args)
        if found is not None:
            note(f"{number} of {len(cells)}, {cell.plan.name}: done")
            measured[cell.plan.name] = found
    if not measured:
        return 0  # the first of several processes speaks
    rows = [
        (row, layout, _name(args, row, layout)) for row in _rows(args) for layout in LAYOUTS if getattr(args, layout)
    ]
    if args.json:
        records = [
            {**asdict(row), "layout": layout, "model_version": name, "measured": measured[name]}
            for row, layout, name in rows
        ]
        print(json.dumps(records))
    else:
        print("\n".join([*_tables(rows, measured), *_remarks(args, cells)]))
    return 0


def _rows(args: argparse.Namespace) -> list[Row]:
    found = [row for preset in args.preset for row in rows_of(preset)]
    return [row for row in found if args.table in (None, row.table)]


def _name(args: argparse.Namespace, row: Row, layout: Layout) -> str:
    return "-".join([args.name, row.preset, *([] if row.adapter else ["noadapter"]), row.feature, layout])


def _cells(args: argparse.Namespace, settings: Settings) -> dict[str, Cell]:
    """By the names of their models; a model that stands in both tables once. AV2TError before any work."""
    if not _rows(args):
        raise TrainingError(f"table {args.table} has no row of {', '.join(args.preset)}")
    if not (args.s4 or args.ms3):
        raise TrainingError("no data set was named: give --s4 ROOT, --ms3 ROOT or both")
    cells: dict[str, Cell] = {}
    for layout in LAYOUTS:
        root = getattr(args, layout)
        if root is None:
            continue
        test = read_clips(root, layout, "test")
        refuse_missing(missing_files(test), root, layout)
        shuffled(test, seed=0)  # refuses a single clip
        for row in _rows(args):
            name = _name(args, row, layout)
            if name in cells:
                continue
            plan = make_plan(
                root,
                layout,
                name,
                models_dir=settings.models_dir,
                preset=row.preset,
                feature=row.feature,
                adapter=row.adapter,
                recipe=recipe_of(args),
                precision=args.precision,
            )
            cells[name] = Cell(plan=plan, test=test)
    return cells


def _measured(cell: Cell, settings: Settings, args: argparse.Namespace) -> Numbers | None:
    """Trains the model unless that was done, and measures it unless that was done; None in all processes but one."""
    plan = cell.plan
    folder = settings.data_dir / "runs" / plan.name
    if plan.directory.exists():
        plan.require_same()
    else:
        train(plan, settings, args, folder)
    from av2t_core.training.train import is_first_process

    if not is_first_process(settings.device):
        return None
    kept = folder / "test.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as aside:
            aside.write_text(json.dumps(_measure(cell, settings)) + "\n")
    numbers: Numbers = json.loads(kept.read_text())
    return numbers


def _measure(cell: Cell, settings: Settings) -> Numbers:
    """On the test clips, with their own sound and with that of others."""
    from av2t_core.evaluation.scores import evaluate_clips
    from av2t_core.prediction.predictor import Predictor

    plan = cell.plan
    predictor = Predictor.load(plan.name, settings.device, models_dir=plan.models_dir, precision=plan.precision)
    found = {}
    for sound in HEARINGS:
        with progress_bar(f"measuring, {sound} sound", len(cell.test), "clips") as bar:
            evaluation = evaluate_clips(predictor, cell.test, sound=sound, on_clip=lambda *_: bar.update())
        found[sound] = asdict(evaluation.scores)
    return found


def _tables(rows: Sequence[tuple[Row, Layout, str]], measured: Mapping[str, Numbers]) -> Iterator[str]:
    for table, title in TITLES.items():
        own = [(row, layout, measured[name]) for row, layout, name in rows if row.table == table]
        if own:
            yield from ("", f"**Table {table}: {title}**", "", "| " + " | ".join(COLUMNS) + " |")
            yield "|---|---|" + "---:|" * (len(COLUMNS) - 2)
            for row, layout, numbers in own:
                yield "| " + " | ".join(_line(row, layout, numbers)) + " |"


def _line(row: Row, layout: Layout, numbers: Numbers) -> list[str]:
    published = row.published[layout]
    own = numbers["own"]
    sounding = (numbers[sound]["iou_sounding"] for sound in HEARINGS)
    return [
        row.what,
        DATA[layout],
        f"{_or_dash(published.miou, '.2f')} / {_or_dash(published.f, '.3f')}",
        f"{100 * own['miou']:.2f} / {own['f_reference']:.3f}",
        f"{own['f_avsbench']:.3f}",
        *(_or_dash(value and 100 * value, ".2f") for value in sounding),
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _remarks(args: argparse.Namespace, cells: Mapping[str, Cell]) -> Iterator[str]:
    """What keeps the numbers from being compared."""
    for layout in LAYOUTS:
        cell = next((cell for cell in cells.values() if cell.plan.layout == layout), None)
        if cell is not None:
            counts = (len(cell.plan.training), len(cell.plan.validation), len(cell.test))
            if counts != CLIPS[layout]:
                yield ""
                yield (
                    f"{getattr(args, layout)} is not AVSBench's {DATA[layout]}: to train, validate and test it has"
                    f" {_split(counts)} clips, not {_split(CLIPS[layout])}. What was published is of other data."
                )
    if TINY in args.preset:
        yield ""
        yield "tiny stands in the rows of SAM2; it is not the paper's model, and what was published is not of it."
    if (changed := recipe_of(args)) != PaperRecipe():
        told = ", ".join(f"{k} {v:g}" for k, v in asdict(changed).items() if v != getattr(PaperRecipe(), k))
        yield ""
        yield f"The recipe is not the paper's: {told}."


def _split(counts: tuple[int, int, int]) -> str:
    return "{}, {} and {}".format(*counts)
