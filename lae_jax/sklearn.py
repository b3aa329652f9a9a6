"""The autoencoder as an estimator of scikit-learn: in pipelines, in searches, and with the attributes of its PCA."""

import numpy as np
import optax
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lae_jax.data import datasets
from lae_jax.data.arrays import SamplesLike
from lae_jax.data.datasets import Dataset
from lae_jax.errors import InputError
from lae_jax.fitting import Fit, fit
from lae_jax.methods import Method, Optimizer
from lae_jax.streaming import fit_of
from lae_jax.training import low_rank
from lae_jax.training.low_rank import StreamRule, StreamState

_TYPES = ["float64", "float32"]  # that samples keep; others become the first


class LinearAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components by training a linear autoencoder: `lae_jax.fit` behind scikit-learn's methods.

    Args:
        n_components: latent size k, at most n_features - 1 and the directions in which the samples vary. None: as many
            as that. A number in (0, 1): as few as explain that part of the variance.
        method: a name of `METHODS`, or a row of one's own.
        optimizer: a name of `OPTIMIZERS`, or any optax transformation.
        learning_rate: None: the default of method and optimizer.
        penalties: of the l2 methods, as in `lae_jax.fit`.
        prior: of nested dropout, as in `lae_jax.fit`.
        beta: of the linear VAE, as in `lae_jax.fit`.
        max_iter: steps. None: until the components are found.
        tol: stop once axis alignment (Def. 7.1) is at or below this. None: as `lae_jax.fit` does.
        precision: `float32`, or `float64` with jax_enable_x64.
        random_state: of the initial weights, of batches and of masks.

    Attributes:
        components_: (k, n_features), rows of unit length, by falling variance.
        explained_variance_: (k,), with 1 / (n - 1).
        explained_variance_ratio_: (k,), what each adds to the span of those before it.
        singular_values_: (k,), sqrt((n - 1) `explained_variance_`).
        mean_: (n_features,).
        n_components_: k; fewer than wanted where latents have collapsed.
        n_samples_, n_features_in_, feature_names_in_: of the samples; the last where columns have names.
        n_iter_: steps taken; of a stream, batches.
        result_: the `lae_jax.Fit`, with weights, history and notes.

    `partial_fit` is the streaming rule of `lae_jax.fit_stream`, whatever `method`; it begins anew after `fit`.
    """

    _stream: tuple[StreamRule, StreamState, int]  # and how many batches; not there before `partial_fit`
    result_: Fit
    components_: np.ndarray
    explained_variance_: np.ndarray
    explained_variance_ratio_: np.ndarray
    singular_values_: np.ndarray
    mean_: np.ndarray
    n_components_: int
    n_samples_: int
    n_iter_: int

    def __init__(
        self,
        n_components: float | None = None,
        *,
        method: str | Method = "alternation",
        optimizer: str | Optimizer | optax.GradientTransformation = "nesterov",
        learning_rate: float | None = None,
        penalties: ArrayLike = (),
        prior: ArrayLike = (),
        beta: ArrayLike = (),
        max_iter: int | None = None,
        tol: float | None = None,
        precision: str = "float32",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.penalties = penalties
        self.prior = prior
        self.beta = beta
        self.max_iter = max_iter
        self.tol = tol
        self.precision = precision
        self.random_state = random_state

    def fit(self, X: SamplesLike, y: None = None) -> "LinearAutoencoder":  # noqa: N803
        """Train on samples (n, n_features). Raises InputError at a parameter that cannot be meant so."""
        rows = validate_data(self, X, dtype=_TYPES, ensure_min_samples=2, ensure_min_features=2)
        self.__dict__.pop("_stream", None)
        dataset = datasets.from_samples("X", rows)
        found = fit(
            dataset,
            self._latent_dim(dataset),
            self.method,
            num_steps=self.max_iter,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            penalties=self.penalties,
            prior=self.prior,
            beta=self.beta,
            seed=self._seed(),
            target=self.tol,
            precision=self.precision,
        )
        return self._take(found, len(rows), int(found.history["step"][-1]), rows.dtype)

    def partial_fit(self, X: SamplesLike, y: None = None) -> "LinearAutoencoder":  # noqa: N803
        """Take up more samples (n_i, n_features), each seen once; the first time at least n_components of them.

        Raises InputError at a parameter that cannot be meant so, and at first samples that do not vary.
        """
        first = not hasattr(self, "_stream")
        least = 2 if first else 1
        rows = validate_data(self, X, dtype=_TYPES, reset=first, ensure_min_samples=least, ensure_min_features=least)
        if first:
            latent_dim = self._checked(min(len(rows), rows.shape[1] - 1), "the first samples")
            rule = low_rank.stream_rule(latent_dim, rows.shape[1], precision=self.precision)
            state, batches = low_rank.start(rule, rows.shape[1], self._seed()), 0
        else:
            rule, state, batches = self._stream
        state, _ = low_rank.extend(rule, state, np.asarray(rows, np.float64))
        found = fit_of(rule, low_rank.finish(rule, state), [])
        self._stream = rule, state, batches + 1
        return self._take(found, state.num_rows, batches + 1, rows.dtype)

    def transform(self, X: SamplesLike) -> np.ndarray:  # noqa: N803
        """Coordinates (n, k) of samples (n, n_features)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=_TYPES, reset=False)
        return self.result_.components.transform(rows).astype(rows.dtype, copy=False)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Samples (n, n_features) at coordinates (n, k)."""
        check_is_fitted(self)
        return self.result_.components.inverse_transform(X)

    def score(self, X: SamplesLike, y: None = None) -> float:  # noqa: N803
        """Minus the mean squared error of reconstruction: how well, not how sparingly; more components score higher."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=_TYPES, reset=False)
        restored = self.inverse_transform(self.transform(rows))
        return -float(np.mean(np.sum(np.square(rows - restored, dtype=np.float64), axis=1)))

    def _latent_dim(self, dataset: Dataset) -> int:
        """The latent size that `n_components` stands for."""
        most = min(dataset.input_dim - 1, dataset.rank)
        if isinstance(self.n_components, float | np.floating) and 0 < self.n_components < 1:
            parts = np.cumsum(dataset.variances[:most]) / dataset.total_variance
            if parts[-1] < self.n_components:
                raise InputError(
                    f"n_components: {self.n_components}: {most} components explain {parts[-1]:.6g} at most"
                )
            return min(int(np.searchsorted(parts, self.n_components, side="right")) + 1, most)
        return self._checked(most, "these samples")

    def _checked(self, most: int, of_what: str) -> int:
        if self.n_components is None:
            return most
        if not isinstance(self.n_components, int | np.integer) or not 1 <= self.n_components <= most:
            raise InputError(f"n_components: {self.n_components!r}: must be a whole number in 1..{most} for {of_what}")
        return int(self.n_components)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _take(self, found: Fit, num_samples: int, steps: int, dtype: np.dtype) -> "LinearAutoencoder":
        names = getattr(self, "feature_names_in_", None)
        components = found.components._replace(feature_names=names)
        variances = components.explained_variance * (num_samples / (num_samples - 1))
        self.result_ = found._replace(components=components)
        self.components_ = components.components.astype(dtype)
        self.explained_variance_ = variances.astype(dtype)
        self.explained_variance_ratio_ = components.explained_variance_ratio.astype(dtype)
        self.singular_values_ = np.sqrt(variances * (num_samples - 1)).astype(dtype)
        self.mean_ = components.mean.astype(dtype)
        self.n_components_, self.n_samples_, self.n_iter_ = len(components.components), num_samples, steps
        return self

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = _TYPES
        return tags
