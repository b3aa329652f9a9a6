"""What launchers say that they take of memory (`launch.needs`) beside what they do take, at two sizes each.

    python -m tests.measured_memory [NAME ...]

Prints the peak of each process and the estimate, and their ratio above the libraries; ends with status 1 where the
estimate is below the peak, or more than 2.5 times as far above the libraries. Ten minutes on two cores. For Linux.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lae_jax.data.memory import LIBRARIES

MOST = 2.5
FILES = {"tall": (60_000, 784), "square": (4_000, 2_000), "small": (20_000, 400)}
_FEW = ("--config.seconds=0.001", "--config.repeats=1", "--config.memory_steps=0", "--config.start_options=()",
        "--config.lanczos=()", "--config.stream_sizes=()")  # fmt: skip
_NO_STEPS = ("--config.large_latent_dims=()", "--config.shared_runs=0")
_NO_REST = ("--config.batch_latent_dims=()", "--config.spectrum_sizes=()")
_STEPS = (*_FEW, *_NO_STEPS, *_NO_REST, "--config.theory_pairs=0", "--config.methods=('nested_dropout',)")
_PAIRS = (*_FEW, *_NO_STEPS, *_NO_REST, "--config.methods=()")
# Launcher -> options of each size; {tall} and the others are files of samples.
CASES: dict[str, list[tuple[str, ...]]] = {
    "hessian": [
        ("--config.spectra=('linear',)", "--config.rate_latent_dim=0", "--config.optimise_up_to=0", *size)
        for size in (
            ("--config.analytic_dim=1000", "--config.latent_dims=(20,)"),
            ("--config.analytic_dim=4000", "--config.latent_dims=(30,)"),
        )
    ],
    "ordered_latents": [(f"--config.dataset={{{name}}}", "--config.num_steps=20") for name in ("small", "tall")],
    "limits": [
        (f"--config.problems=(('{{{name}}}',20,3),)", "--config.num_seeds=1", "--config.counted=()")
        for name in ("tall", "square")
    ],
    "penalties": [
        (
            f"--config.dataset={{{name}}}",
            "--config.num_settings=2",
            "--config.seeds=(0,)",
            "--config.num_steps=20",
            size,
        )
        for name, size in (("square", "--config.latent_dim=20"), ("tall", "--config.latent_dim=5"))
    ],
    "noise_floor": [
        (
            "--config.dataset={tall}",
            "--config.num_components=100",
            "--config.num_steps=9",
            "--config.learning_rates=(.001,)",
        ),
        (
            "--config.num_components=50",
            "--config.optimizer=adam",
            "--config.num_steps=9",
            "--config.learning_rates=(1e-4,)",
        ),
    ],
    "surface": [(f"--config.resolution={size}", "--config.num_steps=50") for size in (1500, 3000)],
    "streaming": [
        (f"--config.num_samples={count}", f"--config.input_dim={size}")
        for count, size in ((300_000, 512), (50_000, 2048))
    ],
    "benchmark": [
        (*_STEPS, "--config.num_samples=30_000"),
        (*_STEPS, "--config.num_samples=60_000"),
        (*_PAIRS, "--config.theory_pairs=20_000"),
    ],
}


def peak(name: str, options: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """MiB that a launcher takes at its most, and has said."""
    files = {each: str(folder / f"{each}.npy") for each in FILES}
    told, environment = folder / "told.txt", {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"launch.{name}", f"--workdir={folder / 'run'}"]
    with open(told, "w") as output:
        process = subprocess.Popen(
            command + [option.format(**files) for option in options], stdout=output, stderr=output, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
    assert not status, told.read_text()[-2000:]
    found = re.search(r"memory: about ([\d.e+]+) (MiB|GiB) a process", told.read_text())
    assert found is not None, told.read_text()
    return used.ru_maxrss / 1024, float(found[1]) * {"MiB": 1, "GiB": 1024}[found[2]]


def main(names: list[str]) -> int:
    """All launchers, or these."""
    libraries, bad = LIBRARIES / 2**20, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in FILES.items():
            rows = np.random.default_rng(0).standard_normal(shape, np.float32) * np.linspace(3, 0.1, shape[1])
            np.save(Path(folder) / f"{name}.npy", rows.astype(np.float32))
        for name in names or CASES:
            for options in CASES[name]:
                most, said = peak(name, options, Path(folder))
                ratio = (said - libraries) / max(most - libraries, 1)
                fits = said >= most and (ratio <= MOST or said - most < 100)
                bad += not fits
                print(f"{name:16} peak {most:6.0f} MiB, said {said:6.0f}, above the libraries x {ratio:4.2f}"
                      f"{'' if fits else '  NO'}  {' '.join(options)}", flush=True)  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
