"""Clips: from a file to windows of one second of sound, each with its keyframe, and back to an mp4."""
