"""Small data sets in AVSBench's layouts, composed from the project's own cut-outs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from av2t_core.data.composed_set import SetLayout, SetRecipe, write_set
from av2t_core.data.cutouts import Cutouts

CUTOUTS = Path(__file__).parents[1] / "data" / "cutouts"


def compose_set(
    folder: Path,
    layout: SetLayout,
    clips: int,
    seed: int = 0,
    labels: Sequence[str] = ("dog", "owl", "rooster"),
    shares: tuple[int, int, int] = (70, 15, 15),
) -> Path:
    """`folder` with a table and its clips, before generated backgrounds. Of five clips 3, 1 and 1 are for train, val
    and test, of three clips with the shares (34, 33, 33) one each."""
    recipe = SetRecipe(layout=layout, clips=clips, seed=seed, labels=tuple(labels), shares=shares)
    write_set(folder, replace(Cutouts.load(CUTOUTS), backgrounds=()), recipe)
    return folder
