"""The text-prompted segmenters, one file for each, and what they are made of."""
