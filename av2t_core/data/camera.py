"""What cameras and encoders do to a picture: blur, noise, compression."""

from dataclasses import dataclass

import cv2
import numpy as np

from av2t_core.data.cutouts import Image


@dataclass(frozen=True, kw_only=True)
class Camera:
    blur: float = 0.0  # pixels, the deviation of a Gaussian
    noise: float = 0.0  # of 255, its deviation
    quality: int | None = None  # of JPEG; None does not compress

    def shoot(self, rng: np.random.Generator, picture: Image) -> Image:
        """(H, W, 3); `rng` draws the noise."""
        if self.blur:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), self.blur), np.uint8)
        if self.noise:
            picture = np.clip(picture + rng.normal(0, self.noise, picture.shape), 0, 255).astype(np.uint8)
        if self.quality is not None:
            _, packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return picture


def draw_camera(rng: np.random.Generator) -> Camera:
    """Each flaw is there one time in four."""
    return Camera(
        blur=float(rng.uniform(0.4, 1.4)) if rng.random() < 0.25 else 0.0,
        noise=float(rng.uniform(2, 10)) if rng.random() < 0.25 else 0.0,
        quality=int(rng.integers(25, 80)) if rng.random() < 0.25 else None,
    )
