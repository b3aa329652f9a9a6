"""Run directories: files that are whole or not there, checkpoints, going on after a kill."""
