import json
from dataclasses import replace

import numpy as np
import pytest

from av2t_core.prediction.calibration import Calibration, probability
from av2t_core.prediction.objects import FEATURES, Detection, Evidence
from av2t_core.versions.card import Card

SURE = Evidence(iou=0.9, peak=9.0, heard=0.99, match=0.95, share=0.1)
NOTHING = Evidence(iou=0.0, peak=-3.0, heard=0.01, match=0.0, share=0.0)


def test_features_are_finite_and_small() -> None:
    for evidence in (SURE, NOTHING, replace(SURE, heard=1.0, peak=1e6), replace(SURE, heard=0.0, share=1e-9)):
        assert len(evidence.features) == len(FEATURES)
        assert all(abs(feature) < 10 for feature in evidence.features)
    assert all(more > less for more, less in zip(SURE.features, NOTHING.features, strict=True))


def test_a_line_is_log_odds() -> None:
    assert probability((0,) * len(FEATURES) + (0,), SURE.features) == 0.5
    assert probability((1, 0, 0, 0, 0, 0), SURE.features) == pytest.approx(1 / (1 + np.exp(-3.6)))
    assert probability((1e9,) * len(FEATURES) + (0,), SURE.features) <= 1


def test_of_one_thing_in_a_mask() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[:5] = True
    dog = Detection(names={"dog": 0.3, "fox": 0.2}, score=1, mask=mask)
    assert dog.evidence_of(SURE) == replace(SURE, match=0.3, share=0.5)
    assert Detection(score=1, mask=mask).evidence_of(SURE).match == 1
    assert replace(dog, evidence=NOTHING).evidence_of(SURE) == NOTHING


def test_a_card_keeps_it() -> None:
    fields = {"preset": "tiny", "sha256": "0" * 64, "labels": []}
    lines = {"presence": [1, 2, 3, 4, 5, 6], "right": [6, 5, 4, 3, 2, 1]}
    card = Card.parse(json.dumps({**fields, "calibration": lines}).encode())
    assert Calibration.of(card) == Calibration(presence=(1, 2, 3, 4, 5, 6), right=(6, 5, 4, 3, 2, 1))
    assert Calibration.of(Card.parse(json.dumps(fields).encode())) is None
