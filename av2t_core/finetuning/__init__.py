"""What people corrected, to a better model version."""
