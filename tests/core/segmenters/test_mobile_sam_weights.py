"""The shipped MobileSAM says what the published ONNX files say, by onnxruntime, of a drawn picture.

Its large matrices are kept as bytes: masks stay the same, while logits, of which the largest are 30, move by up to 0.6.
What the conversion gives before that is compared by mobile_sam_weights.py, to 3e-5.
"""

import numpy as np
import torch

from av2t_core.prediction.predictor import Predictor
from av2t_core.segmenters.mobile_sam import MobileSam
from tests.core.model.micro import GOLDEN


def picture() -> torch.Tensor:
    """(3, 1024, 1024): a disc and a bar before a slope."""
    y, x = np.mgrid[:1024, :1024].astype(np.float32)
    frame = np.stack([x / 8, y / 8, (x + y) / 16])
    frame[:, (x - 400) ** 2 + (y - 500) ** 2 < 200**2] = np.array([[220.0], [60], [40]])
    frame[:, (abs(x - 800) < 60) & (abs(y - 500) < 300)] = np.array([[40.0], [200], [80]])
    return torch.from_numpy(frame)


@torch.inference_mode()
def test_it_says_what_the_published_files_say() -> None:
    model = Predictor.load("small", "cpu", precision="fp32").loaded.model.segmenter
    assert isinstance(model, MobileSam)
    images = model.inputs(model.squares([picture()]))
    features = model.encode(images)
    box = model.prompt_tokens((1024, 1024), boxes=torch.tensor([[190.0, 290, 610, 710]]))
    point = model.prompt_tokens((1024, 1024), points=torch.tensor([[[800.0, 500]]]), point_labels=torch.ones(1, 1))
    found = model.decode(images, features, torch.cat([box, point]), torch.tensor([0, 0]))
    with np.load(GOLDEN / "mobile_sam.npz") as golden:
        torch.testing.assert_close(
            features[0][0, :, ::16, ::16], torch.from_numpy(golden["embedding"]), atol=0.01, rtol=0
        )
        for index, prompt in enumerate(("box", "point")):
            logits, ious = torch.from_numpy(golden[f"{prompt}_logits"]), torch.from_numpy(golden[f"{prompt}_ious"])
            torch.testing.assert_close(found.logits[index, :, ::8, ::8], logits, atol=0.7, rtol=0)
            masks, published = found.logits[index, :, ::8, ::8] > 0, logits > 0
            assert ((masks & published).sum(dim=(1, 2)) >= 0.99 * (masks | published).sum(dim=(1, 2))).all()
            torch.testing.assert_close(found.scores[index], ious, atol=0.01, rtol=0)
