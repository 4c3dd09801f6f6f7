import torch

from av2t_core.pretraining.models import candidates_loss
from av2t_core.training.paper import frame_losses, soft_iou


def test_soft_iou_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [100.0, -100.0]]])  # p = 1/2, 1/2, 1, 0
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # I = 1/2 + 1, U = (2 + 2) - 3/2
    assert torch.allclose(soft_iou(logits, target), torch.tensor([1.5 / 2.5]))


def test_a_perfect_mask_costs_nothing() -> None:
    target = torch.zeros(2, 8, 8)
    target[:, 2:5, 3:6] = 1
    assert frame_losses((target * 2 - 1) * 50, target).amax() < 1e-6


def test_an_empty_target_costs_one_and_has_no_gradient_of_the_iou() -> None:
    logits = torch.randn(1, 4, 4, requires_grad=True)
    loss = (1 - soft_iou(logits, torch.zeros(1, 4, 4))).mean()
    torch.autograd.backward(loss)
    assert loss == 1
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_expected_iou_learns_from_every_candidate() -> None:
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1
    right, wrong = (target * 2 - 1) * 20, (1 - target * 2) * 20
    logits = torch.stack([right, wrong, wrong], dim=1)
    honest = candidates_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]), target)
    boasting = candidates_loss(logits, torch.tensor([[1.0, 1.0, 1.0]]), target)
    assert honest < boasting


def test_of_a_thing_that_may_be_heard_a_missing_mask_costs_more_than_a_false_one() -> None:
    """The same picture three times, and once in three its thing is what sounds: zero is not where to stop."""
    target = torch.zeros(3, 4, 4)
    target[0, :2] = 1
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = candidates_loss(logits.expand(3, 3, 4, 4), torch.zeros(3, 3), target)
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert (logits.grad[0, 0, :2] < 0).all()  # up, there
    assert (logits.grad[0, 0, 2:] > 0).all()
