import pytest
import torch
from torch import Tensor

from av2t_core.encoders.naming import LearnedNamer, Namer
from av2t_core.finetuning.fine_tuning import Labelled, fit_names, learnable
from av2t_core.training.replay import Replay

WIDTH = 32
NAMES = ("camel", "koala")


class Known:
    """A model that knows of a dog alone, and takes everything else for silence."""

    labels: tuple[str, ...] = ("dog",)

    def silence(self, a: Tensor) -> Tensor:
        return torch.full((len(a),), 0.9)

    def heard(self, a: Tensor) -> Tensor:
        return torch.full((len(a), 1), 0.3)

    seen = heard


def around(direction: int, count: int, seed: int) -> Tensor:
    """Embeddings that point about the same way, (count, WIDTH)."""
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return 5 * torch.nn.functional.one_hot(torch.tensor(direction), WIDTH) + noise


def labelled(seed: int, count: int = 12) -> Labelled:
    return [
        (embedding, frozenset({name}))
        for direction, name in enumerate(NAMES)
        for embedding in around(direction, count, seed + direction)
    ]


@pytest.fixture
def namer() -> Namer:
    replay = Replay(v=around(5, 40, 90), a=around(6, 40, 91))
    tensors = fit_names(NAMES, labelled(1), labelled(11), replay)
    namer = LearnedNamer(Known(), NAMES, audio_width=WIDTH, image_width=WIDTH)
    namer.load_state_dict(tensors)
    return namer.eval().requires_grad_(False)


def test_it_calls_things_as_people_do(namer: Namer) -> None:
    assert namer.labels == ("dog", *NAMES)
    for direction, column in ((0, 1), (1, 2)):
        unseen = around(direction, 20, 50 + direction)
        for said in (namer.heard(unseen), namer.seen(unseen)):
            assert (said.argmax(dim=-1) == column).float().mean() > 0.9


def test_what_the_model_learnt_before_is_none_of_the_names(namer: Namer) -> None:
    assert (namer.heard(around(6, 20, 60))[:, 1:] < 0.5).float().mean() > 0.9
    assert (namer.seen(around(5, 20, 61))[:, 1:] < 0.5).float().mean() > 0.9
    assert namer.heard(around(0, 4, 62))[:, 0].tolist() == pytest.approx([0.3] * 4)


def test_what_has_a_learnt_name_is_no_silence(namer: Namer) -> None:
    assert (namer.silence(around(0, 20, 70)) < 0.5).float().mean() > 0.9
    assert (namer.silence(around(6, 20, 71)) > 0.5).float().mean() > 0.9


def test_fitting_gives_the_same_again() -> None:
    first, second = (fit_names(NAMES, labelled(1), labelled(11), None) for _ in range(2))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_names_that_are_heard_too_seldom_are_not_learnt() -> None:
    sounds = [*labelled(1, count=3), (torch.ones(WIDTH), frozenset({"vulture"}))]
    assert learnable(("vulture", *reversed(NAMES)), sounds) == ("koala", "camel")
