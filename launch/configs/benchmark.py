"""How fast a step is, beside the matrix products it cannot do without, measured in the same run.

    python -m launch.benchmark --workdir=DIR

About four minutes on two cores.
"""

from ml_collections import ConfigDict

from launch.configs import check_variant

VARIANTS = {"solvers": "alternation beside eigsh, and the memory of wide streams, alone"}


def get_config(variant: str = "") -> ConfigDict:
    """MNIST's size for every method and representation, and RAG on larger latents. `variant`: "" or "solvers"."""
    check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.input_dim = 784
    config.num_samples = 60_000
    # Whose steps are timed.
    config.methods = (
        *("lae", "uniform_l2", "non_uniform_l2", "nested_dropout", "deterministic_nested_dropout", "linear_vae"),
        *("rag", "aligned"),
    )
    config.latent_dim = 20
    config.large_latent_dims = (100, 500)  # RAG in the eigenbasis, and with Adam on the dense covariance
    config.shared_runs = 8  # runs of nested dropout that share the data in one step
    config.shared_samples = 5000  # that they share
    config.spectrum_sizes = ((784, 20), (1000, 500))  # (m, k) of closed-form Hessian spectra
    config.theory_pairs = 20_000  # spectra and hyperparameters whose eigenvalues and bounds are timed; 0: none
    config.repeats = 7  # step and products are timed in turn this many times; medians are given
    config.seconds = 0.2  # least time of one measurement
    config.memory_steps = 30_000  # length of the run whose peak memory is taken; 0 leaves it out
    config.sweep_runs = 64  # of each sweep below
    config.sweep_input_dim = 1000  # of their data
    # Batches of RAG on the data of Figure 4, beside a loop over their runs.
    config.batch_latent_dims = (2, 5, 20, 50, 100, 200)
    config.batch_runs = 8  # runs in each batch
    config.batch_steps = 100  # of every run in a pass, at most 500
    config.batch_input_dim = 1000  # m of the batches
    config.devices = 0  # on a CPU: so many virtual ones, and a row for what they gain; 0: as they are
    # The sweep that is started twice, as options of launch.scaling.
    config.start_options = (
        "--config.dataset=synthetic",
        "--config.init=",
        "--config.seeds=(0,)",
        "--config.input_dim=300",
        "--config.num_samples=600",
        "--config.latent_dims=(2,20)",
        "--config.num_steps=20",
        "--config.try_beyond_failure=True",
    )
    # Alternation beside eigsh of the same accuracy: (data, latent size), each.
    config.lanczos = (("mnist", 20), ("mnist", 50), ("mnist", 100), ("flat_2000", 20))
    config.target = 0.001  # axis alignment that both reach
    config.stream_sizes = ((20_000, 20, 256), (20_000, 50, 256))  # (m, k, rows) of streams whose memory is taken
    config.max_memory = 0.0
    if variant == "solvers":
        config.methods, config.large_latent_dims, config.shared_runs = (), (), 0
        config.spectrum_sizes, config.batch_latent_dims = (), ()
        config.memory_steps, config.start_options, config.theory_pairs = 0, (), 0
    config.matmul_precision = "highest"
    return config
