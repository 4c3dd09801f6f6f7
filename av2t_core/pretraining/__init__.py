"""The recipe of the embedded model, on composed frames."""
