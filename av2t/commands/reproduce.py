"""`av2t reproduce`: the rows of the paper's Tables 1 and 2, trained and measured, beside what was published."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from av2t.commands.train import Recipe, Running, RunOptions, run_folder, run_plan
from av2t.console import note, progress_bar, report
from av2t.options import load_settings
from av2t.signature import Arg
from av2t_core.data.avsbench import Hearing, LabelledClip, Layout, missing_files, read_clips, refuse_missing, shuffled
from av2t_core.files import atomic_file
from av2t_core.model.config import Feature
from av2t_core.settings import ModelSettings
from av2t_core.training.plan import PaperRecipe, Plan, TrainingError

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
Clips = Sequence[LabelledClip]


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

    `--preset tiny` repeats the comparisons with the tests' model, in minutes on a small set that `av2t compose` makes.
    Its weights come with the repository alone. That shows that the machinery works, and nothing about the paper's
    numbers.

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
    tests = {layout: _test_clips(root, layout) for layout, root in roots.items()}
    named = [(row, layout, _name(name, row, layout)) for row in rows for layout in roots]
    plans: dict[str, Plan] = {}  # a model that stands in both tables is one of them
    for row, layout, version in sorted(named, key=lambda each: LAYOUTS.index(each[1])):
        if version not in plans:
            made_of = {"preset": row.preset, "feature": row.feature, "adapter": row.adapter}
            plans[version] = options.plan(roots[layout], layout, version, settings, **made_of)
    measured: dict[str, Numbers] = {}
    for number, (version, plan) in enumerate(plans.items(), start=1):
        found = _measured(plan, tests[plan.layout], settings, running)
        if found is not None:
            note(f"{number} of {len(plans)}, {version}: done")
            measured[version] = found
    if not measured:
        return  # the first of several processes speaks
    records = [
        {**asdict(row), "layout": layout, "model_version": version, "measured": measured[version]}
        for row, layout, version in named
    ]
    remarks = _remarks(roots, plans, tests, options.recipe, tiny=TINY in preset)
    lines = [*_tables(named, measured), *(line for remark in remarks for line in ("", remark))]
    report(records, lines, json=json)


def _name(start: str, row: Row, layout: Layout) -> str:
    return "-".join([start, row.preset, *([] if row.adapter else ["noadapter"]), row.feature, layout])


def _test_clips(root: Path, layout: Layout) -> Clips:
    """AV2TError before any work."""
    clips = read_clips(root, layout, "test")
    refuse_missing(missing_files(clips), root, layout)
    shuffled(clips, seed=0)  # refuses a single clip
    return clips


def _measured(plan: Plan, test: Sequence[LabelledClip], settings: ModelSettings, running: RunOptions) -> Numbers | None:
    """Trains the model unless that was done, and measures it unless that was done, with the clips' own sound and with
    that of others; None in all processes but one."""
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
            with progress_bar(f"measuring, {sound} sound", len(test), "clips") as bar:
                evaluation = evaluate_clips(predictor, test, sound=sound, on_clip=lambda *_: bar.update())
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
    roots: dict[Layout, Path], plans: dict[str, Plan], tests: dict[Layout, Clips], recipe: PaperRecipe, *, tiny: bool
) -> Iterator[str]:
    """What keeps the numbers from being compared."""
    for layout, root in roots.items():
        plan = next(plan for plan in plans.values() if plan.layout == layout)
        counts = (len(plan.training), len(plan.validation), len(tests[layout]))
        if counts != CLIPS[layout]:
            yield (
                f"{root} is not AVSBench's {layout.upper()}: to train, validate and test it has {_split(counts)} clips,"
                f" not {_split(CLIPS[layout])}. What was published is of other data."
            )
    if tiny:
        yield "tiny stands in the rows of SAM2; it is not the paper's model, and what was published is not of it."
    paper = asdict(PaperRecipe())
    if changed := {name: value for name, value in asdict(recipe).items() if value != paper[name]}:
        yield f"The recipe is not the paper's: {', '.join(f'{name} {value:g}' for name, value in changed.items())}."


def _split(counts: tuple[int, int, int]) -> str:
    return "{}, {} and {}".format(*counts)
