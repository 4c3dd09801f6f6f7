"""Strictly, and without a copy."""

import re

import pytest
import torch

from av2t_core.errors import WeightsError
from av2t_core.model.published_weights import Source, translate

OWN = {"first": torch.empty(2, 3, device="meta"), "second": torch.empty(2, 3, device="meta")}
UNREAD = re.compile(r"text\.")


def source(key: str) -> Source:
    return Source("both", ("first", "second").index(key), 2)


def test_parts_are_views_of_what_was_read() -> None:
    both = torch.arange(12.0).reshape(4, 3)
    translated = translate("encoder", {"both": both, "text.x": torch.ones(1)}, OWN, source, UNREAD)
    assert translated.keys() == OWN.keys()
    assert torch.equal(torch.cat([translated["first"], translated["second"]]), both)
    assert translated["first"].data_ptr() == both.data_ptr()


def test_everything_that_does_not_fit_is_named() -> None:
    with pytest.raises(WeightsError, match=r"\(2 keys\): missing both; unknown x\.text\.y"):
        translate("encoder", {"x.text.y": torch.ones(1)}, OWN, source, UNREAD)
    with pytest.raises(WeightsError, match=r"\(1 keys\): both is \(2, 3\), the encoder has \(4, 3\)"):
        translate("encoder", {"both": torch.ones(2, 3)}, OWN, source, UNREAD)


def test_many_are_not_all_listed() -> None:
    state = {f"x{index:02}": torch.ones(1) for index in range(30)}
    with pytest.raises(WeightsError, match=r"\(31 keys\): missing both; unknown x00; .*x08; …$"):
        translate("encoder", state, OWN, source, UNREAD)
