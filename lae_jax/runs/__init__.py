"""Runs on disk: their files, checkpoints, and how they go on after a kill."""
