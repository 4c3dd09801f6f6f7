from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from av2t_core.data.cutouts import Cutouts
from av2t_core.evaluation.reliability import Bin, Reliability, _line, fit, measure, write_diagram
from av2t_core.prediction.predictor import Predictor

CUTOUTS = Path(__file__).parents[2] / "data" / "cutouts"


def test_a_line_finds_the_odds_that_were_drawn() -> None:
    rng = np.random.default_rng(0)
    true = np.array([1.0, -0.5, 0.0, 2.0, 0.3, -1.0])
    features = rng.normal(size=(20_000, 5))
    odds = features @ true[:-1] + true[-1]
    outcomes = rng.random(20_000) < 1 / (1 + np.exp(-odds))
    assert _line(features.tolist(), outcomes.tolist()) == pytest.approx(true, abs=0.1)


def test_a_line_exists_where_all_are_alike_and_where_there_are_none() -> None:
    assert np.isfinite(_line([[1.0] * 5] * 3, [True] * 3)).all()
    assert _line([], []) == (0.0,) * 6


def test_reliability() -> None:
    measured = Reliability.of([0.05, 0.05, 0.95, 1.0], [False, True, True, True])
    assert measured.bins == (Bin(count=2, said=0.05, was=0.5), Bin(count=2, said=0.975, was=1.0))
    assert measured.error == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("tiny", "cpu")


def test_the_shipped_scores_are_probabilities(predictor: Predictor, tmp_path: Path) -> None:
    """On the project's own cut-outs; the figures in docs/results.md are of all of them, and of many more clips."""
    measured = measure(predictor, Cutouts.load(CUTOUTS), clips=24, seed=5)
    assert set(measured) == {"presence", "object", "keyframe"}
    assert all(reliability.error < 0.15 for reliability in measured.values())
    write_diagram(tmp_path / "diagram.png", measured)
    with Image.open(tmp_path / "diagram.png") as diagram:
        assert diagram.width > 3 * 300


def test_fitting_gives_the_same_again_whatever_the_predictor_had_before(predictor: Predictor) -> None:
    bare = Predictor("bare", predictor.loaded)
    assert fit(predictor, Cutouts.load(CUTOUTS), clips=4) == fit(bare, Cutouts.load(CUTOUTS), clips=4)
