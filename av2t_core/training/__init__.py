"""The paper's training on a data set."""
