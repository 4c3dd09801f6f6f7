"""Three training steps against those of the reference implementation, on its micro models."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.presets import PRESETS
from av2t_core.model.published_weights import empty_weights
from av2t_core.pretraining.models import candidates_loss
from av2t_core.training.paper import Inputs, PaperTraining, accelerator, frame_losses, soft_iou, trained_parameters
from av2t_core.training.plan import PaperRecipe, TrainingError
from tests.core.model.micro import BACKBONES, GOLDEN, Backbone, inputs, micro, some, to_reference_state_dict
from tests.data.golden import by_name

SIZE = (224, 224)
STEPS = 3
FRAMES = 4

both = pytest.mark.parametrize("backbone", BACKBONES)


@dataclass
class Run:
    """What our three steps gave, parameters and gradients under the reference's names for them."""

    losses: list[float] = field(default_factory=list)
    bces: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    first_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    first_gradients: dict[str, Tensor | None] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        run = cls()
        model = micro(backbone)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        names = dict(zip(model.state_dict(), to_reference_state_dict(model), strict=True))
        training = PaperTraining(model, PaperRecipe(), accelerator(cpu=True))
        for number in range(STEPS):
            if number == 0:
                with torch.no_grad():
                    run.first_logits = training.objective.logits(batch())
            run.lrs.append(training.lr)
            step = training.learn([batch()], count=1, frames=FRAMES)
            run.bces.append(step.bce)
            run.ious.append(step.iou)
            run.losses.append(step.loss)
            if number == 0:
                run.first_gradients = {names[n]: _copy(p) for n, p in trained_parameters(model).items()}
            training.end_epoch()  # the reference's three steps are of three epochs
        run.parameters = {names[name]: tensor for name, tensor in model.state_dict().items()}
        run.changed = {
            names[name] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
        }
        return run


@pytest.fixture(scope="module")
def runs() -> dict[Backbone, Run]:
    return {backbone: Run.of(backbone) for backbone in BACKBONES}


def target() -> Tensor:
    """Noise and a square, and one frame that is empty: (4, 224, 224) of 0 and 1."""
    mask = by_name.tensor_input("micro.target", (2, 2, *SIZE)) > 0.8
    mask[..., 60:160, 60:160] = True
    mask[1, 1] = False
    return torch.from_numpy(mask).flatten(0, 1).float()


def batch(frames: slice = slice(None), **changes: Any) -> Inputs:
    """The golden batch, or some of its frames."""
    images, v, a = some(inputs(), frames)
    names = tuple(f"clip {index // 2}" for index in range(FRAMES))[frames]
    given = Inputs(images=images, v=v, a=a, target=target()[frames], names=names)
    return replace(given, **changes)


def golden(backbone: Backbone) -> dict[str, NDArray[np.float64]]:
    with np.load(GOLDEN / f"micro_train_{backbone}.npz") as file:
        return dict(file)


def gradient_norms(backbone: Backbone) -> dict[str, float | None]:
    norms: dict[str, float | None] = json.loads((GOLDEN / f"micro_train_{backbone}_gradnorms.json").read_text())
    return norms


def _copy(parameter: nn.Parameter) -> Tensor | None:
    return None if parameter.grad is None else parameter.grad.clone()


@both
def test_the_losses_are_those_of_the_reference(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    run, expected = runs[backbone], golden(backbone)
    for name, ours in (("loss", run.losses), ("bce", run.bces), ("iou", run.ious)):
        difference = np.abs(np.array(ours) - expected[name]).max()
        print(f"{backbone} {name}: largest difference {difference:.1e}")
        assert difference <= 1e-5, name


@both
def test_the_learning_rates_are_exact(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    expected = golden(backbone)
    assert runs[backbone].lrs == expected["lr"].tolist()
    training, lrs = PaperTraining(micro(backbone), PaperRecipe(), accelerator(cpu=True)), []
    for _ in range(40):
        lrs.append(training.lr)
        training.optimiser.step()
        training.end_epoch()
    assert lrs == expected["lr_table_40"].tolist()


@both
def test_the_gradients_are_those_of_the_reference(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    gradients = runs[backbone].first_gradients
    worst = 0.0
    for name, theirs in golden(backbone).items():
        if name.startswith("grad/"):  # the first rows
            gradient = gradients[name.removeprefix("grad/")]
            assert gradient is not None
            difference = np.abs(gradient[: len(theirs)].numpy() - theirs).max() / np.abs(theirs).max()
            worst = max(worst, difference)
            assert difference <= 1e-4, name
    print(f"{backbone} gradients: largest difference {worst:.1e} of the largest entry")


@both
def test_the_norm_of_every_gradient_is_that_of_the_reference(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    gradients, norms = runs[backbone].first_gradients, gradient_norms(backbone)
    assert gradients.keys() == norms.keys()
    worst = 0.0
    for name, theirs in norms.items():
        gradient = gradients[name]
        if theirs is None or gradient is None:
            assert theirs is None, name
            assert gradient is None, name
            continue
        ours = gradient.double().norm().item()
        if name.endswith("k_proj.bias"):
            # It adds the same to the scores of all keys, which a softmax does not see: its gradient is 0, and what is
            # there instead is rounding.
            assert max(ours, theirs) < 1e-8, name
        else:
            assert abs(ours - theirs) <= 1e-4 * theirs, name
            worst = max(worst, abs(ours - theirs) / theirs if theirs else 0.0)
    print(f"{backbone} norms of the gradients: largest relative difference {worst:.1e}")


@both
def test_three_steps_lead_where_the_reference_got(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    after = {name.removeprefix("after3/"): t for name, t in golden(backbone).items() if name.startswith("after3/")}
    assert after
    for name, theirs in after.items():
        difference = np.abs(runs[backbone].parameters[name].numpy() - theirs).max()
        print(f"{backbone} {name} after three steps: largest difference {difference:.1e}")
        # A twentieth of what one step moves a parameter: where a gradient is hardly more than AdamW's epsilon, 1e-8,
        # its rounding is scaled up as the gradient is.
        assert difference <= 1e-5, name


@both
def test_what_the_loss_does_not_see_never_learns(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    run = runs[backbone]
    untouched = {name for name, gradient in run.first_gradients.items() if gradient is None}
    heads = {"evf_sam": ("iou_prediction_head",), "evf_sam2": ("iou_prediction_head", "pred_obj_score_head")}[backbone]
    assert untouched == {name for name in run.first_gradients if any(f".{head}." in name for head in heads)}
    assert run.changed == run.first_gradients.keys() - untouched


@pytest.mark.parametrize(
    ("preset", "tensors", "parameters"), [("sam2-l", 336, 34_279_477), ("sam1-h", 199, 17_058_276)]
)
def test_at_full_size_the_paper_trains_a_few_percent(preset: str, tensors: int, parameters: int) -> None:
    with empty_weights():
        trained = trained_parameters(AV2TSam(PRESETS[preset].config()))
    assert (len(trained), sum(parameter.numel() for parameter in trained.values())) == (tensors, parameters)


@both
def test_the_masks_are_those_of_the_reference(shared: Path, runs: dict[Backbone, Run], backbone: Backbone) -> None:
    with np.load(shared / "golden" / f"micro_train_{backbone}.npz") as file:
        theirs, their_target = file["pred0"][:, 0], file["target"]
    assert (target().numpy() == their_target.reshape(4, *SIZE)).all()
    difference = np.abs(runs[backbone].first_logits.numpy() - theirs).max()
    print(f"{backbone} logits at {SIZE}: largest difference {difference:.1e}")
    assert difference <= 2e-4


@both
def test_a_batch_in_parts_gives_the_same_gradients(runs: dict[Backbone, Run], backbone: Backbone) -> None:
    """Of unequal size, and with all but the blocks' inputs computed twice."""
    model = micro(backbone)
    model.recompute()
    training = PaperTraining(model, PaperRecipe(), accelerator(cpu=True))
    stand_in = batch(slice(0, 1), counts=False)
    parts = [batch(slice(0, 3)), batch(slice(3, 4)), stand_in]
    step = training.learn(parts, count=len(parts), frames=FRAMES)
    assert abs(step.loss - runs[backbone].losses[0]) <= 1e-5
    names = dict(zip(model.state_dict(), to_reference_state_dict(model), strict=True))
    for name, parameter in trained_parameters(model).items():
        whole = runs[backbone].first_gradients[names[name]]
        if whole is None:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert (parameter.grad - whole).abs().max() <= 1e-4 * whole.abs().max() + 1e-8, name


def test_a_loss_that_is_not_finite_names_its_clip_and_changes_nothing() -> None:
    model = micro()
    training = PaperTraining(model, PaperRecipe(), accelerator(cpu=True))
    before = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}
    broken = batch()
    broken.a[2] = torch.nan
    with pytest.raises(TrainingError, match=r"the loss is nan on clip 1: look at the files"):
        training.learn([broken], count=1, frames=FRAMES)
    assert all(torch.equal(parameter, before[name]) for name, parameter in trained_parameters(model).items())


def test_without_adapters_what_the_image_encoder_gave_is_not_computed_again() -> None:
    model = micro(adapter=False)
    training = PaperTraining(model, PaperRecipe(), accelerator(cpu=True))
    given = batch()
    with torch.no_grad():
        expected = training.objective.logits(given)
        features = model.segmenter.encode(given.images)
        kept = training.objective.logits(batch(images={"multimodal": given.images["multimodal"]}, features=features))
    assert torch.equal(kept, expected)


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
