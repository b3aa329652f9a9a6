"""How fast, and in how much memory, files stream to their components.

python -m launch.streaming --workdir=DIR [--config.FIELD=VALUE ...]

Writes synthetic shards into DIR, measures in processes of their own, checks, deletes the shards and leaves
streaming.csv (`lae_jax.data.benchmark.measure` says what its columns are). For Linux. Several processes are started as
those of launch.train are, and stream together.
"""

from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.data import hosts
from lae_jax.data.benchmark import Shards, measure
from launch import common, memory, needs, processes


def run(config: ConfigDict, workdir: Path) -> None:
    """Measure, print the table and write streaming.csv."""
    shards = Shards(
        *(config.num_samples, config.input_dim, config.num_shards, config.dtype, config.fortran_order),
        *(config.data_seed, config.format),
    )
    hosts.meet()
    memory.tell(needs.streaming(shards), config.max_memory, "a smaller num_samples or input_dim")
    row = measure(shards, workdir, config.repeats)
    if not hosts.is_first():
        return
    common.write_csv(workdir / "streaming.csv", [row])
    for name, value in row.items():
        print(f"{name:18} {value if isinstance(value, str) else f'{value:.6g}'}")
    print(f"wrote {workdir / 'streaming.csv'}")


if __name__ == "__main__":
    processes.define_flags()
    common.main(processes.together(run), "streaming.py")
