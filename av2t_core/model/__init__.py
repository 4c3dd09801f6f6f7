"""AV2T-SAM (arXiv 2502.16359): each box of the paper's figure is one module here, under the paper's name for it."""
