"""The queue, the warm worker and its jobs."""
