"""Names: what sounds, what it looks like to the eyes that we have, and what a project calls it."""
