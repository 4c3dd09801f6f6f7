"""From windows to objects with masks, labels and scores, and how they are written and drawn."""
