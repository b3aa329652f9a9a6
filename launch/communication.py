"""What devices exchange in a step, for every rule and layout: counted in the compiled programs.

    python -m launch.communication --workdir=DIR [--config.FIELD=VALUE ...]

Leaves communication.csv (`lae_jax.training.communication.measure` says what its columns are).
"""

from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.data.datasets import synthetic
from lae_jax.errors import InputError, unknown_name
from lae_jax.methods import METHODS
from lae_jax.training import communication
from launch import common, switches


def run(config: ConfigDict, workdir: Path) -> None:
    """Compile, count, print and write communication.csv."""
    common.set_precision("float32", "highest")
    for name in config.methods:
        if name not in METHODS:
            raise unknown_name("methods", name, METHODS)
    devices = switches.devices(max(config.devices))
    dataset = synthetic(input_dim=config.input_dim, num_samples=config.num_samples)
    rows = []
    for method in config.methods:
        for layout, (representation, _, _) in communication.LAYOUTS.items():
            if METHODS[method].needs_samples and representation != "samples":
                continue
            for count in config.devices:
                sizes = (config.latent_dim, config.batch_size)
                rows.append(communication.measure(method, layout, dataset, devices[:count], *sizes))
                shown = rows[-1]
                print(
                    f"{method:16} {layout:20} {count} devices: {shown['exchanges']} exchanges, product"
                    f" {shown['product']:,} numbers (by formula {shown['formula']:,}), batch {shown['batch']:,},"
                    f" others {shown['small']:,}"
                )
                if shown["product"] != shown["formula"]:
                    raise InputError(f"methods: {method} exchanges other numbers than its formula says")
    common.write_csv(workdir / "communication.csv", rows)
    print(f"wrote {workdir / 'communication.csv'}")


if __name__ == "__main__":
    common.main(run, "communication.py")
