"""The worker that watches jobs, and the process beside it that holds the model."""
