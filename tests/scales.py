"""Every method on the same data in thirteen units: whatever they are measured in, the run is the same.

    python -m tests.scales --workdir=DIR

Trains every row of METHODS in single precision on data sets of scikit-learn times 1e-30, 1e-25, ..., 1e30, and writes
`scales.csv`: for each method and data set how far the axis alignment (Def. 7.1) of any record differs from that at
scale 1. Ends with status 1 where one differs by more than 1e-3.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn import datasets as bundled

from lae_jax import METHODS, fit
from lae_jax.runs import storage

SCALES = [10.0**power for power in range(-30, 31, 5)]
MOST = 1e-3
STEPS, RECORD_EVERY = 1000, 50


def _standardised(rows: np.ndarray) -> np.ndarray:
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


# Name -> samples and latent size. The last two were not looked at when the unit of the linear VAE was chosen.
DATA: dict[str, tuple[Callable[[], np.ndarray], int]] = {
    "iris": (lambda: bundled.load_iris().data, 2),
    "wine": (lambda: _standardised(bundled.load_wine().data), 3),
    "digits": (lambda: bundled.load_digits().data, 8),
    "breast_cancer": (lambda: _standardised(bundled.load_breast_cancer().data), 4),
    "diabetes": (lambda: _standardised(bundled.load_diabetes().data), 4),
}


def compared(name: str, method: str, scales: list[float] = SCALES, steps: int = STEPS) -> dict[str, object]:
    """The alignment at the end at scale 1, and how far that of any record is from it at the worst of these scales."""
    load, latent_dim = DATA[name]
    rows, apart = load(), {}
    plain = trained(rows, latent_dim, method, steps)
    for scale in scales:
        apart[scale] = float(np.max(np.abs(trained(rows * scale, latent_dim, method, steps) - plain)))
    worst = max(apart, key=lambda scale: np.nan_to_num(apart[scale], nan=np.inf))
    return {
        "dataset": name,
        "method": method,
        "latent_dim": latent_dim,
        "steps": steps,
        "axis_alignment": f"{plain[-1]:.3g}",
        "worst_difference": f"{apart[worst]:.2g}",
        "at_scale": f"{worst:g}",
    }


def trained(rows: np.ndarray, latent_dim: int, method: str, steps: int) -> np.ndarray:
    """The alignment at each record."""
    found = fit(rows, latent_dim, method, num_steps=steps, record_every=RECORD_EVERY)
    return found.history["axis_alignment"]


def main() -> int:
    """Write the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    found = []
    for name in options.data:
        for method in options.methods:
            found.append(compared(name, method))
            print(*found[-1].values(), flush=True)
            storage.write_csv(options.workdir / "scales.csv", found)
    return int(not all(float(str(row["worst_difference"])) <= MOST for row in found))


if __name__ == "__main__":
    sys.exit(main())
