"""The queue, the warm worker and its jobs, in rooms of their own; the backend uses the queue's alone."""
