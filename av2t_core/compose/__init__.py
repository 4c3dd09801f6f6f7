"""Composed clips: photographs with alpha move over backgrounds and sound or keep silent, with exact masks for free."""

from av2t_core.compose.cutouts import Cutouts
from av2t_core.compose.scene import Scene, draw_scene

__all__ = ["Cutouts", "Scene", "draw_scene"]
