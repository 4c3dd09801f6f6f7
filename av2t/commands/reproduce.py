"""`av2t reproduce`: the rows of the paper's Tables 1 and 2, trained and measured, beside what was published."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from av2t.commands.train import Recipe, RecipeOptions, Running, RunOptions, run_folder, run_plan
from av2t.console import note, progress_bar, report
from av2t.signature import Arg
from av2t.store import load_settings
from av2t_core.data.avsbench import Hearing, LabelledClip, Layout, missing_files, read_clips, refuse_missing, shuffled
from av2t_core.files import atomic_file
from av2t_core.model.config import Feature
from av2t_core.settings import ModelSettings
from av2t_core.training.plan import PaperRecipe, Plan, TrainingError, make_plan

Score = tuple[float | None, float | None]
"""mIoU in per cent, and F; None for a number that the text of the paper does not give."""


@dataclass(frozen=True)
class Row:
    """Of the tables. `preset` is one that also exists without adapters."""

    table: int
    what: str
    preset: str
    adapter: bool
    feature: Feature
    published: Mapping[Layout, Mapping[str, float | None]]


def _row(table: int, what: str, preset: str, s4: Score, ms3: Score, feature: Feature = "mul") -> Row:
    published: dict[Layout, Any] = {"s4": {"miou": s4[0], "f": s4[1]}, "ms3": {"miou": ms3[0], "f": ms3[1]}}
    return Row(table, what, preset, "no adapters" not in what, feature, published)


PAPER_ROWS = (
    _row(1, "SAM, no adapters", "sam1-h", (83.11, 0.901), (55.81, 0.634)),
    _row(1, "SAM, adapters", "sam1-h", (85.78, 0.919), (65.76, 0.738)),
    _row(1, "SAM2, no adapters", "sam2-l", (85.63, 0.920), (64.47, 0.704)),
    _row(1, "SAM2, adapters", "sam2-l", (86.67, 0.924), (69.65, 0.777)),
    _row(2, "SAM2, CLAP alone", "sam2-l", (None, None), (None, None), "clap"),
    # Section 5.3 gives one number of Table 2: what CLIP's feature alone scores on S4.
    _row(2, "SAM2, CLIP alone", "sam2-l", (86.67, None), (None, None), "clip"),
    _row(2, "SAM2, CLAP x CLIP", "sam2-l", (86.67, 0.924), (69.65, 0.777)),
)
TINY = "tiny"
_SAM2 = [row for row in PAPER_ROWS if row.preset == "sam2-l"]
ROWS = (*PAPER_ROWS, *(replace(row, preset=TINY, what=row.what.replace("SAM2", TINY)) for row in _SAM2))
"""`tiny`, which the paper does not have, stands in the rows of SAM2."""

LAYOUTS: tuple[Layout, ...] = ("s4", "ms3")
PAPER_PRESETS = tuple(dict.fromkeys(row.preset for row in PAPER_ROWS))
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


def reproduce(
    *,
    s4: Annotated[Path | None, Arg("AVSBench's single-source clips", "ROOT")] = None,
    ms3: Annotated[Path | None, Arg("AVSBench's multi-source clips", "ROOT")] = None,
    preset: Annotated[
        Sequence[str], Arg("default: the paper's, sam1-h and sam2-l", choices=[*PAPER_PRESETS, TINY])
    ] = PAPER_PRESETS,
    table: Annotated[Literal[1, 2] | None, Arg("only this one")] = None,
    name: Annotated[str, Arg("what the model versions' names begin with")] = "table",
    json: Annotated[bool, Arg("print the numbers as JSON")] = False,
    options: Recipe,
    running: Running,
) -> None:
    """Train the models of the paper's Table 1 (SAM and SAM2, with adapters and without) and Table 2 (what f is made of)
    on AVSBench, measure each on the test clips, and print what was measured beside what was published.

    The table is in Markdown: mIoU in per cent and F, as AV2T-SAM's authors compute both, and beyond them the IoU of the
    frames in which something sounds, also with the sound of another clip: what falls then was heard. A model that is
    trained already is not trained again, so the same command goes on after an interruption.

    `--preset tiny` repeats the comparisons with the embedded model, in minutes on a small set that `av2t compose`
    makes. It shows that the machinery works, and nothing about the paper's numbers.

    examples:
      av2t reproduce --s4 Single-source --ms3 Multi-sources
      av2t reproduce --ms3 composed --preset tiny --epochs 8 --lr 1e-3
    """
    settings = load_settings(ModelSettings, device=running.device)
    roots: dict[Layout, Path] = {layout: root for layout, root in zip(LAYOUTS, (s4, ms3), strict=True) if root}
    rows = [row for each in preset for row in ROWS if row.preset == each and table in (None, row.table)]
    if not rows:
        raise TrainingError(f"table {table} has no row of {', '.join(preset)}")
    if not roots:
        raise TrainingError("no data set was named: give --s4 ROOT, --ms3 ROOT or both")
    cells = _cells(rows, roots, name, options, settings)
    measured: dict[str, Numbers] = {}
    for number, cell in enumerate(cells.values(), start=1):
        found = _measured(cell, settings, running)
        if found is not None:
            note(f"{number} of {len(cells)}, {cell.plan.name}: done")
            measured[cell.plan.name] = found
    if not measured:
        return  # the first of several processes speaks
    named = [(row, layout, _name(name, row, layout)) for row in rows for layout in roots]
    records = [
        {**asdict(row), "layout": layout, "model_version": version, "measured": measured[version]}
        for row, layout, version in named
    ]
    lines = [*_tables(named, measured), *_remarks(roots, cells, options.recipe, tiny=TINY in preset)]
    report(records, lines, json=json)


def _name(start: str, row: Row, layout: Layout) -> str:
    return "-".join([start, row.preset, *([] if row.adapter else ["noadapter"]), row.feature, layout])


def _cells(
    rows: Sequence[Row], roots: Mapping[Layout, Path], start: str, options: RecipeOptions, settings: ModelSettings
) -> dict[str, Cell]:
    """By the names of their models; a model that stands in both tables once. AV2TError before any work."""
    cells: dict[str, Cell] = {}
    for layout, root in roots.items():
        test = read_clips(root, layout, "test")
        refuse_missing(missing_files(test), root, layout)
        shuffled(test, seed=0)  # refuses a single clip
        for row in rows:
            name = _name(start, row, layout)
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
                recipe=options.recipe,
                precision=options.precision,
            )
            cells[name] = Cell(plan=plan, test=test)
    return cells


def _measured(cell: Cell, settings: ModelSettings, running: RunOptions) -> Numbers | None:
    """Trains the model unless that was done, and measures it unless that was done, with the clips' own sound and with
    that of others; None in all processes but one."""
    plan = cell.plan
    if plan.directory.exists():
        plan.require_same()
    else:
        run_plan(plan, settings, running)
    from av2t_core.evaluation.scores import evaluate_clips
    from av2t_core.prediction.predictor import Predictor
    from av2t_core.training.paper import accelerator

    if not accelerator(cpu=settings.device == "cpu").is_main_process:
        return None
    result = run_folder(plan, settings) / "test.json"
    if not result.exists():
        predictor = Predictor.load(plan.name, settings.device, models_dir=plan.models_dir, precision=plan.precision)
        found: Numbers = {}
        for sound in HEARINGS:
            with progress_bar(f"measuring, {sound} sound", len(cell.test), "clips") as bar:
                evaluation = evaluate_clips(predictor, cell.test, sound=sound, on_clip=lambda *_: bar.update())
            found[sound] = asdict(evaluation.scores)
        result.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(result) as aside:
            aside.write_text(json.dumps(found) + "\n")
    numbers: Numbers = json.loads(result.read_text())
    return numbers


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
        layout.upper(),
        f"{_or_dash(published['miou'], '.2f')} / {_or_dash(published['f'], '.3f')}",
        f"{100 * own['miou']:.2f} / {own['f_reference']:.3f}",
        f"{own['f_avsbench']:.3f}",
        *(_or_dash(value and 100 * value, ".2f") for value in sounding),
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _remarks(
    roots: Mapping[Layout, Path], cells: Mapping[str, Cell], recipe: PaperRecipe, *, tiny: bool
) -> Iterator[str]:
    """What keeps the numbers from being compared."""
    for layout, root in roots.items():
        cell = next(cell for cell in cells.values() if cell.plan.layout == layout)
        counts = (len(cell.plan.training), len(cell.plan.validation), len(cell.test))
        if counts != CLIPS[layout]:
            yield ""
            yield (
                f"{root} is not AVSBench's {layout.upper()}: to train, validate and test it has {_split(counts)} clips,"
                f" not {_split(CLIPS[layout])}. What was published is of other data."
            )
    if tiny:
        yield ""
        yield "tiny stands in the rows of SAM2; it is not the paper's model, and what was published is not of it."
    paper = asdict(PaperRecipe())
    if changed := {name: value for name, value in asdict(recipe).items() if value != paper[name]}:
        yield ""
        yield f"The recipe is not the paper's: {', '.join(f'{name} {value:g}' for name, value in changed.items())}."


def _split(counts: tuple[int, int, int]) -> str:
    return "{}, {} and {}".format(*counts)
