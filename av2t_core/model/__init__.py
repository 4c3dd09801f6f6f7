"""AV2T-SAM (arXiv 2502.16359): each box of the paper's figure is one module here, under the paper's name for it."""

from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import AV2TSamConfig

__all__ = ["AV2TSam", "AV2TSamConfig"]
