"""What `av2t up` starts, watches and stops: Redis, Label Studio, the backend and the workers."""
