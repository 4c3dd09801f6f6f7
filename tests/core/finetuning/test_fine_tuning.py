"""Fine-tuning: what learns, how it resumes, and the names that come of it."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from av2t_core.data.avsbench import SIZE
from av2t_core.encoders.naming import LearnedNamer, Namer
from av2t_core.errors import MemoryShortError
from av2t_core.finetuning.examples import ClipExamples, Examples
from av2t_core.finetuning.fine_tuning import MASK_DECODER, FineTuneRecipe, FineTuning, Labelled, fit_names, learnable
from av2t_core.training.loop import Progress
from av2t_core.training.plan import TrainingError
from av2t_core.training.replay import Drift, Replay, replay_of
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions.checkpoint import Loaded, build, load_version
from av2t_core.versions.version import resolve
from tests.conftest import EMBEDDED
from tests.core.model.micro import to_reference_state_dict

RECIPE = FineTuneRecipe(epochs=2, batch=2)


@pytest.fixture
def loaded() -> Loaded:
    return load_version(resolve(EMBEDDED), torch.device("cpu"))


@pytest.fixture(scope="module")
def replay() -> Replay:
    replay = replay_of(resolve(EMBEDDED))
    assert replay is not None
    return Replay(v=replay.v[:40], a=replay.a[:40])


def examples(loaded: Loaded, count: int = 3) -> ClipExamples:
    """Noise with a square in it, which sounds."""
    config, generator = loaded.model.config, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    target = torch.zeros(count, SIZE, SIZE, dtype=torch.uint8)
    target[:, 60:160, 60:160] = 1
    keyframes = Examples(
        images={
            "sam": (255 * noise(count, 3, 256, 256)).byte(),
            "multimodal": (255 * noise(count, 3, 128, 128)).byte(),
        },
        v=noise(count, 2, config.image_width),
        a=noise(count, config.audio_width),
        target=target,
    )
    return ClipExamples(
        sha256="",
        size=(256, 256),
        keyframes=keyframes,
        things=torch.zeros(0, config.image_width),
        outlines=target[:0],
        labels=(),
        elsewhere=torch.zeros(0, config.image_width),
        numbers=torch.zeros(0),
    )


def tuning(
    loaded: Loaded, folder: Path, recipe: FineTuneRecipe = RECIPE, *, replay: Replay | None = None, at_once: int = 2
) -> FineTuning:
    folder.mkdir(exist_ok=True)
    return FineTuning(loaded, [examples(loaded)], replay, recipe, RunFolder(folder), at_once=at_once)


def learn(tuned: FineTuning) -> list[Progress]:
    with closing(tuned.run()) as steps:
        return list(steps)


@pytest.mark.parametrize("also", [(), (MASK_DECODER,)])
def test_nothing_learns_but_what_is_asked_for(loaded: Loaded, tmp_path: Path, also: tuple[str, ...]) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    tuned = tuning(loaded, tmp_path / "run", replace(RECIPE, also=also))
    learn(tuned)
    after = loaded.model.state_dict()
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    own = {name for name in before if name.startswith(("projector.", "adapters."))}
    assert own <= changed <= tuned.learned.keys()
    assert tuned.learned.keys() == ({name for name in before if loaded.model.is_trained(name)} if also else own)


@pytest.mark.parametrize("preset", ["sam2-l", "sam1-h"])
def test_the_reference_has_its_names_for_what_learns(preset: str) -> None:
    """So that a version of the paper's models can be given back to its authors' code."""
    model = build(preset).model
    theirs = dict(zip(model.state_dict(), to_reference_state_dict(model), strict=True))
    learned = {name for name in theirs if RECIPE.learns(model, name)}
    assert {theirs[name] for name in learned} == {
        name for name in theirs.values() if name.startswith(("projector.", "audio_prompt_generator."))
    }
    assert learned < {name for name in theirs if replace(RECIPE, also=(MASK_DECODER,)).learns(model, name)}


def test_it_tells_how_far_it_is(loaded: Loaded, tmp_path: Path) -> None:
    told = learn(tuning(loaded, tmp_path / "run"))
    assert [(at.step, at.steps, at.epoch, at.epochs) for at in told] == [
        (1, 4, 1, 2),
        (2, 4, 1, 2),
        (3, 4, 2, 2),
        (4, 4, 2, 2),
    ]
    assert all(np.isfinite(at.loss) for at in told)
    assert told[1].mean_loss == pytest.approx((told[0].loss + told[1].loss) / 2)


def test_many_keyframes_are_seen_less_often(loaded: Loaded, tmp_path: Path) -> None:
    """Two steps an epoch: three keyframes in batches of two."""
    for steps, epochs in ((2000, 20), (10, 5), (2, 3)):
        tuned = tuning(loaded, tmp_path / "run", FineTuneRecipe(batch=2, steps=steps))
        assert (tuned.epochs, tuned.steps) == (epochs, 2 * epochs)


def assert_learned_alike(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    """All weights together, by how far they moved. A single one whose gradient is lost in rounding is moved by AdamW as
    far as any, in a direction that the machine's kernels decide."""
    before = load_version(resolve(EMBEDDED), torch.device("cpu")).model.state_dict()
    moved = torch.cat([(some[name] - before[name]).flatten() for name in others])
    apart = torch.cat([(some[name] - tensor).flatten() for name, tensor in others.items()])
    assert moved.norm() > 0.01
    assert apart.norm() < 0.01 * moved.norm()


def test_how_many_go_through_the_model_together_changes_nothing(loaded: Loaded, tmp_path: Path) -> None:
    together = tuning(loaded, tmp_path / "a")
    learn(together)
    expected = {name: tensor.clone() for name, tensor in together.learned.items()}
    other = tuning(load_version(resolve(EMBEDDED), torch.device("cpu")), tmp_path / "b", at_once=1)
    learn(other)
    assert_learned_alike(expected, other.learned)


def bounded(loaded: Loaded, most: int) -> list[int]:
    """Memory runs out in batches larger than `most`: really, but for the amount. Returns the sizes that are tried."""
    sizes: list[int] = []

    def look(_: object, batch: tuple[Tensor, ...]) -> None:
        sizes.append(len(batch[1]))
        if sizes[-1] > most:
            torch.empty(1 << 50)

    loaded.model.register_forward_pre_hook(look)
    return sizes


def test_a_batch_that_does_not_fit_is_halved_and_the_size_kept(loaded: Loaded, tmp_path: Path) -> None:
    whole = tuning(loaded, tmp_path / "a")
    learn(whole)
    small = load_version(resolve(EMBEDDED), torch.device("cpu"))
    sizes = bounded(small, 1)
    halved = tuning(small, tmp_path / "b")
    learn(halved)
    assert sizes == [2, 1, 1, 1, 1, 1, 1]
    assert_learned_alike(whole.learned, halved.learned)


def test_memory_that_is_too_small_for_one_keyframe_is_said(loaded: Loaded, tmp_path: Path) -> None:
    bounded(loaded, 0)
    with pytest.raises(MemoryShortError, match="one keyframe needs more memory than cpu has left"):
        learn(tuning(loaded, tmp_path / "run"))


@pytest.mark.parametrize("after", [1, 2, 3])
def test_stopped_anywhere_it_goes_on_to_the_same_result(loaded: Loaded, tmp_path: Path, after: int) -> None:
    whole = tuning(loaded, tmp_path / "whole")
    learn(whole)
    expected = {name: tensor.clone() for name, tensor in whole.learned.items()}

    stopped = tuning(load_version(resolve(EMBEDDED), torch.device("cpu")), tmp_path / "stopped")
    with closing(stopped.run()) as steps:
        for _ in range(after):
            next(steps)
    again = tuning(load_version(resolve(EMBEDDED), torch.device("cpu")), tmp_path / "stopped")
    assert [at.step for at in learn(again)] == list(range(after + 1, 5))
    assert all(tensor.equal(expected[name]) for name, tensor in again.learned.items())


def test_it_is_held_to_what_it_said_before(loaded: Loaded, tmp_path: Path, replay: Replay) -> None:
    drift = Drift(loaded.model, replay)
    assert drift().item() == 0.0
    recipe = replace(RECIPE, epochs=4)
    learn(tuning(loaded, tmp_path / "free", recipe))
    free = drift().item()

    held = load_version(resolve(EMBEDDED), torch.device("cpu"))
    drift = Drift(held.model, replay)
    learn(tuning(held, tmp_path / "held", recipe, replay=replay))
    assert drift().item() < 0.5 * free


def test_a_loss_that_is_none_ends_it_before_anything_is_kept(loaded: Loaded, tmp_path: Path) -> None:
    with torch.no_grad():
        loaded.model.projector.audio_proj.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="the loss is"):
        learn(tuning(loaded, tmp_path / "run"))
    assert RunFolder(tmp_path / "run").load() is None


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


def test_what_a_place_may_be_all_the_same_says_nothing_against_it() -> None:
    cat, dog, lawn = torch.eye(3)
    both = ("cat", "dog")
    sounds = [(cat, frozenset({"cat"})), (dog, frozenset({"dog"}))]

    def seen(place: Tensor, *doubtful: str) -> Tensor:
        lines = fit_names(both, sounds, sounds, None, [(place, frozenset(doubtful))] * 5)
        return lines["seeing.weight"] @ place + lines["seeing.bias"]

    known = seen(lawn)
    assert (known < 0).all()
    assert seen(cat)[0] < seen(cat, "cat")[0]
    assert seen(cat, "cat")[0] > 0
