"""Logistic regression: what a model version learns beside its weights, its calibration and its names."""

import torch
from torch import Tensor
from torch.nn import functional as F

_STEPS = 200


def fit_lines(x: Tensor, y: Tensor, decay: float, weight: Tensor | None = None) -> Tensor:
    """A line for each column of `y` (examples, lines), 0 or 1, on `x` (examples, width): (lines, width + 1), the bias
    last.

    `weight`: how much an example counts for each line, shape of `y`. `decay`, of the lines' squared lengths: a line
    exists even where all outcomes are alike, or where there are none.
    """
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    lines = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([lines], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        wrong = F.binary_cross_entropy_with_logits(x @ lines.T, y.double(), weight=weight, reduction="sum")
        value = wrong + decay * lines.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return lines.detach()
