"""From windows to objects with masks, labels and scores, and how they are written and drawn."""

Box = tuple[float, float, float, float]
"""x, y, width and height in pixels."""
