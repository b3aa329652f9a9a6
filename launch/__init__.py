"""Launchers, run from the checkout as `python -m launch.NAME`."""
