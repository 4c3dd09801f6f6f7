"""AV2T-SAM: from a clip to the masks of what sounds in it."""
