"""Data sets: files, image sets, one pass over samples, and what the methods read of them."""
