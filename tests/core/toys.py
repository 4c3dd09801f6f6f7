"""What is done with an encoder or a segmenter that a test defines: it predicts, is saved and loaded, and learns."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from av2t_core.finetuning.examples import examples_of
from av2t_core.finetuning.fine_tuning import MASK_DECODER, FineTuneRecipe, FineTuning
from av2t_core.media.clip import Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.prediction.predictor import KeyframePrediction, Predictor
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions.saving import save_version


def windows(count: int = 3) -> list[Window]:
    """Noise to see and to hear."""
    rng = np.random.default_rng(0)
    return [
        Window(
            keyframe=Keyframe(index=number, frame=number, time=float(number)),
            image=rng.integers(0, 255, (30, 40, 3), np.uint8),
            sound=Sound.alone(rng.normal(0, 0.1, (1, 16_000)).astype(np.float32), 16_000),
        )
        for number in range(count)
    ]


def saved_and_loaded(predictor: Predictor, preset: str, models_dir: Path) -> Predictor:
    """As a model version of this preset."""
    tensors = {
        f"{name}.{key}": t
        for name, module in predictor.loaded.modules.items()
        for key, t in module.state_dict().items()
    }
    save_version(models_dir / "toy-1", {"preset": preset, "labels": []}, tensors)
    return Predictor.load("toy-1", "cpu", models_dir=models_dir, precision="fp32")


def assert_same(first: Sequence[KeyframePrediction], second: Sequence[KeyframePrediction]) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one.score, one.level) == (other.score, other.level)
        assert (one.mask == other.mask).all()


def fine_tuned(predictor: Predictor, folder: Path) -> set[str]:
    """The names of the tensors that two epochs on noise have changed; all that may learn does."""
    folder.mkdir()
    mask = np.zeros((30, 40), np.bool_)
    mask[5:20, 5:20] = True
    examples = examples_of(predictor.loaded, windows(), {0: mask, 1: mask}, {}, "")
    recipe = FineTuneRecipe(epochs=2, batch=2, also=(MASK_DECODER,))
    before = {name: tensor.clone() for name, tensor in predictor.loaded.model.state_dict().items()}
    tuning = FineTuning(predictor.loaded, [examples], None, recipe, RunFolder(folder))
    with closing(tuning.run()) as steps:
        assert all(np.isfinite(at.loss) for at in steps)
    after = predictor.loaded.model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
