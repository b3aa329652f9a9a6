"""Training: named settings, the compiled loop, batches of runs, sweeps, streams."""
