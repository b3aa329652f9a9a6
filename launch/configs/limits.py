"""Rules on mini-batches beside the statistical limit, which no rule can better without prior knowledge.

    python -m launch.limits --workdir=DIR

The default needs no download: scikit-learn's digits, drawn with replacement, and Gaussian data of variances 1 / i.
About a minute on two cores. 1 in the table is the limit.
"""

from ml_collections import ConfigDict

from launch.configs import check_variant

VARIANTS = {
    "mnist": "the samples of MNIST (--config.data_dir=FOLDER), one pass of 234 batches, k = 20",
    "long": "5,000 batches: Gaussian data of MNIST's variances, k = 20, the history beside the two best known rules",
    "wide": "Gaussian data of m = 1,000 inputs, k = 20",
    "eigengame": "the data of the mu-EigenGame paper: 256 components of 1,000 inputs, batches of 4,096",
}


def get_config(variant: str = "") -> ConfigDict:
    """Populations, rules and lengths of streams. `variant`: "" or one of VARIANTS."""
    check_variant(variant, VARIANTS)
    config = ConfigDict()
    # (population, latent size, number of batches). A population is a data set by name or path, drawn with replacement,
    # or one of lae_jax.training.populations.
    config.problems = tuple((name, 10, batches) for name in ("digits", "power_law_200") for batches in (7, 100))
    # Of lae_jax.training.limits, or rows of METHODS.
    config.rules = (
        *("low_rank_history", "aligned", "incremental_pca_2k", "incremental_pca", "generalized_hebbian"),
        *("eigengame_mu", "adaoja", "krasulina"),
    )
    config.learning_rates = (0.03, 0.1, 0.3)  # of rows of METHODS, in units of 1 / sigma_1^2; the best is shown
    config.batch_size = 256
    config.num_seeds = 12  # of samples and initial weights; the table shows the mean
    config.counted = (500, 1_000, 2_000)  # samples that count on a stream that turns; (): no such stream
    config.data_dir = ""  # folder with the files of an image set
    config.download = False  # fetch an image set that is in no folder
    config.matmul_precision = "highest"
    config.max_memory = 0.0
    if variant:
        config.counted = ()
    if variant == "mnist":
        config.problems = (("mnist", 20, 234),)
    if variant == "long":
        config.problems = (("mnist_gaussian", 20, 5_000),)
        config.rules = ("low_rank_history", "generalized_hebbian", "eigengame_mu")
    if variant == "wide":
        config.problems = (("power_law_1000", 20, 40),)
    if variant == "eigengame":
        config.problems = (("eigengame", 256, 12),)
        config.rules, config.batch_size, config.num_seeds = ("low_rank_history", "eigengame_mu"), 4_096, 1
    return config
