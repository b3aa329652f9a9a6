"""What a notebook does with the public face: no line of it may be an error to a strict type checker.

Measured as a user would, with a wheel in an environment of its own and a copy of this file elsewhere:

    pip wheel . --no-deps -w w && pip install w/*.whl mypy pyright
    mypy --strict typed_script.py
        1 error: optax is not marked as typed, and --disable-error-code=import-untyped leaves none
    pyright typed_script.py
        0 errors
    pyright --verifytypes lae_jax --ignoreexternal
        completeness 99.2%; what is left are devices of jax and base classes of scikit-learn

With `# pyright: strict` in the first line pyright calls functions of jax (asarray, ones, jit, grad) partially unknown,
and nothing of this package. (mypy 2.4.1, pyright 1.1.414.) Too slow for the suite: both read the types of jax first.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lae_jax
from lae_jax import objectives

rows = np.random.default_rng(0).standard_normal((100, 8))
fit = lae_jax.fit(rows, 3, "aligned", num_steps=10)
coordinates: np.ndarray = fit.components.transform(rows)
variance: float = float(fit.components.explained_variance_ratio.sum())
last: float = float(fit.history["loss"][-1])
decoder = fit.params.decoder
notes: tuple[str, ...] = fit.notes
again = lae_jax.fit(Path("rows.npy"), 3, optimizer=optax.adam(1e-3), penalties=[0.1, 0.2])
alike = [each.settings.latent_dim for each in lae_jax.fit_many(rows.tolist(), (2, 3), seeds=range(2))]
covariance = jnp.asarray(rows.T @ rows / len(rows))
weights = [lae_jax.LAEParams(jnp.ones((k, 8)), jnp.ones((8, k))) for k in (2, 5)]
stacked = lae_jax.stack_latents(weights)
losses = jax.jit(jax.vmap(objectives.l2, (0, None, 0)))(stacked, covariance, jnp.array([0.1, 0.2]))
gradient = jax.grad(objectives.reconstruction)(weights[0], covariance)
rule = optax.chain(lae_jax.rotation_augmented_gradient(), optax.sgd(1e-3))
state = rule.init(weights[0])
row = lae_jax.METHODS["rag"]._replace(label="mine")
found = lae_jax.components_of(weights[0], covariance)
data: lae_jax.Dataset = lae_jax.datasets.load("digits")
distance = lae_jax.metrics.axis_alignment(weights[0].decoder)
spectrum = lae_jax.closed_form.non_uniform_l2_spectrum(np.array([3.0, 2.0, 1.0]), [0.1, 0.2])
loss: jax.Array = objectives.l2(weights[0], rows.T @ rows / len(rows), 0.1)
bound = float(lae_jax.bounds.l2_printed_bound([3.0, 2.0, 1.0], 2))
violated: list[str] = lae_jax.verify("non_uniform_l2", [3.0, 2.0, 1.0], penalties=[0.1, 0.2]).violated
streamed: lae_jax.Fit = lae_jax.fit_stream(iter([rows]), 3)
