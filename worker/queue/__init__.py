"""The queues in Redis: kinds of jobs, their identity and states, and all that is to be seen of them."""
