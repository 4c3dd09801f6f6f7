"""From windows to things with masks, names and scores, and what is written and drawn of them."""
