"""Training: the paper's loss, and the recipes."""
