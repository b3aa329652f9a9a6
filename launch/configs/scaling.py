"""Figure 4: steps that each method needs to reach axis alignment 0.3, against the latent size.

    python -m launch.scaling --workdir=DIR
    python -m launch.scaling --workdir=DIR --config=launch/configs/scaling.py:full
    python -m launch.scaling --workdir=DIR --config=launch/configs/scaling.py:tune

The default is the deterministic methods and aligned descent up to k = 100 on the authors' samples: from the authors'
initial weights, and under Nesterov up to k = 20 from three others. `full` is every method up to k = 500, each as far
as it reaches, and up to k = 50 from three others. `tune` tries a grid of learning rates for every point and shows
the best.
"""

from ml_collections import ConfigDict

from lae_jax.data.authors import SEED
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError, unknown_name
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.runs.tables import Key
from lae_jax.training.settings import Settings, resolve
from launch.configs import authors, check_variant

# The first columns of runs.csv.
RUN = ("method", "optimizer", "latent_dim", "init", "seed", "learning_rate")

# Read off the published Figure 4: (method, optimizer) -> k -> steps. After the last k 50,000 were not enough.
PAPER: dict[tuple[str, str], dict[int, int]] = {
    ("rag", "nesterov"): {
        2: 850, 5: 3150, 10: 3400, 20: 3700, 50: 4100, 100: 7000, 200: 12000, 300: 15600, 400: 18000, 500: 16500,
    },
    ("rag", "adam"): {2: 2300, 5: 2300},
    ("non_uniform_l2", "nesterov"): {2: 120, 5: 780, 10: 3100, 20: 11000, 50: 32000},
    ("non_uniform_l2", "adam"): {2: 280, 5: 900, 10: 2400, 20: 3750, 50: 6200, 100: 20500},
    ("deterministic_nested_dropout", "nesterov"): {2: 100, 5: 570, 10: 3500, 20: 3100, 50: 24000},
    ("deterministic_nested_dropout", "adam"): {
        2: 310, 5: 910, 10: 1300, 20: 1700, 50: 1950, 100: 1180, 200: 1900, 300: 22500,
    },
    ("nested_dropout", "nesterov"): {2: 90, 5: 1260, 10: 6500, 20: 25000},
    ("nested_dropout", "adam"): {2: 210, 5: 2650, 10: 4500, 20: 8500},
    ("linear_vae", "adam"): {2: 2000},
}  # fmt: skip

# The authors' learning rates: (method, optimizer) -> (smallest k of the interval, learning rate), ...
LEARNING_RATES: dict[tuple[str, str], tuple[tuple[int, float], ...]] = {
    ("rag", "nesterov"): ((1, 1e-4),),
    ("rag", "adam"): ((1, 3e-4),),
    ("non_uniform_l2", "nesterov"): ((1, 1e-3),),
    ("non_uniform_l2", "adam"): ((1, 3e-3),),
    ("deterministic_nested_dropout", "nesterov"): ((1, 1e-3),),
    ("deterministic_nested_dropout", "adam"): ((1, 3e-3), (100, 1e-2)),
    ("nested_dropout", "nesterov"): ((1, 1e-3),),
    ("nested_dropout", "adam"): ((1, 1e-2), (50, 3e-3)),
    ("linear_vae", "nesterov"): ((1, 3e-4),),
    ("linear_vae", "adam"): ((1, 3e-3), (50, 1e-3)),
}


def learning_rate(method: str, optimizer: str, latent_dim: int) -> float | None:
    """The authors' for this point; None, the method's default, for what they did not run."""
    intervals = LEARNING_RATES.get((method, optimizer), ())
    return max((interval for interval in intervals if interval[0] <= latent_dim), default=(0, None))[1]


def largest_penalty_root(input_dim: int, latent_dim: int) -> float:
    """The square root of the authors' largest penalty: 10 on their data, whatever k."""
    return min(0.1 * (input_dim - latent_dim - 1), 0.01 * input_dim)


def check(config: ConfigDict) -> None:
    """Raises InputError."""
    for name in ("methods", "optimizers", "latent_dims", "seeds"):
        values = tuple(config[name])
        if not values and not (name == "seeds" and config.init):
            raise InputError(f"{name}: empty; give at least one")
        if twice := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{name}: {twice[0]} is given more than once")
    for kind, table in (("methods", METHODS), ("optimizers", OPTIMIZERS)):
        for name in config[kind]:
            if name not in table:
                raise unknown_name(kind, name, table)
    if config.init not in ("", "authors"):
        raise InputError(f"init: {config.init!r}: 'authors' for their initial weights, or empty for none but the seeds")
    default = get_config()
    for name in ("input_dim", "num_samples", "data_seed"):
        if config.dataset != "synthetic" and config[name] != default[name]:
            raise InputError(f"{name}: {config[name]}: is of dataset 'synthetic'; {config.dataset!r} is as it is")
    if not 0 < config.target < 1:
        raise InputError(f"target: {config.target}: axis alignment to reach, between 0 and 1")
    if config.max_memory < 0 or config.devices < 0:
        raise InputError("max_memory, devices: must not be negative (0 is no limit, and all there are)")


def plan(config: ConfigDict, dataset: Dataset) -> dict[Key, Settings]:
    """Every run, resolved, by its columns of runs.csv, in the order of the file. Raises InputError."""
    planned: dict[Key, Settings] = {}
    for method in config.methods:
        for optimizer in config.optimizers:
            for latent_dim in config.latent_dims:
                # Where the authors have none, the default of the method.
                rates = tuple(config.learning_rates) or (learning_rate(method, optimizer, latent_dim),)
                penalties = authors.penalties(method, latent_dim, largest_penalty_root(dataset.input_dim, latent_dim))
                # Masks drawn on a GPU cannot be drawn again: of those methods, the seeds are all there is.
                drawn = config.init and not METHODS[method].needs_samples
                banded = latent_dim <= config.seeds_up_to and optimizer in config.seeds_optimizers
                seeds = config.seeds if banded or not drawn else ()
                starts = [("authors", SEED)] * bool(drawn) + [("gaussian", seed) for seed in seeds]
                for init, seed in starts:
                    for rate in rates:
                        asked = Settings(
                            method=method,
                            latent_dim=latent_dim,
                            optimizer=optimizer,
                            learning_rate=rate,
                            penalties=penalties,
                            init=init,
                            precision=config.precision,
                            seed=seed,
                            unit=1.0,  # as published
                        )
                        one, _ = resolve(asked, dataset)
                        key = (method, optimizer, str(latent_dim), init, str(seed), str(one.learning_rate))
                        planned[key] = one
    return planned


VARIANTS = {
    "full": "every method up to k = 500, each as far as it reaches",
    "tune": "a grid of learning rates at every point, the best shown",
}


def get_config(variant: str = "") -> ConfigDict:
    """The authors' settings. `variant` is empty, "full" or "tune"."""
    check_variant(variant, VARIANTS)
    config = ConfigDict()
    # Methods in the figure.
    config.methods = ("non_uniform_l2", "deterministic_nested_dropout", "linear_vae", "rag", "aligned")
    config.optimizers = ("nesterov", "adam")  # a panel of the figure for each
    config.latent_dims = (2, 5, 10, 20, 50, 100)  # sizes k
    config.dataset = "authors_synthetic"  # theirs; or "synthetic", drawn by this code: of the sizes below
    config.init = "authors"  # the curve: from the authors' initial weights; "": none
    config.seeds = (0, 1, 2)  # of other initial weights: the band
    # Where there is the curve, these are trained up to this k, and under these optimizers: a step of Adam costs ten.
    config.seeds_up_to = 20
    config.seeds_optimizers = ("nesterov",)  # those with a band
    # Empty: the authors', and the default of methods that they do not have. Several: all are tried at
    # every point, and the best is shown.
    config.learning_rates = ()
    config.num_steps = 50_000
    config.record_every = 10
    config.target = 0.3
    # Once no seed of a method reaches the target at some k, larger k are left out: the figure would show nothing
    # of them, and they take 50,000 steps each, most of the time of a full sweep.
    config.try_beyond_failure = False
    config.input_dim = 1000
    config.num_samples = 5000
    config.data_seed = 0
    config.precision = "float32"
    config.matmul_precision = "highest"
    config.parallel_jobs = 2  # methods that train at the same time
    config.devices = 0  # 0: all there are; on CPU that many virtual ones
    config.max_memory = 0.0  # GiB a device may spend on one batch; 0: no limit
    if variant == "full":
        config.seeds_up_to = 50
        config.methods = ("nested_dropout", *config.methods)
        config.latent_dims = (2, 5, 10, 20, 50, 100, 200, 300, 400, 500)
    if variant == "tune":
        config.init, config.seeds = "", (0,)
        config.learning_rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
        config.latent_dims = (2, 5, 10, 20)
        config.num_steps = 20_000
    return config
