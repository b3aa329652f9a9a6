"""Times of steps beside the matrix products they cannot do without, and of batches beside loops over their runs.

Whatever is compared is timed in turn in one process, so that all meet the same machine: ratios mean something where
seconds do not.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lae_jax.covariance import Covariance, Dense, Diagonal, Samples
from lae_jax.data.datasets import Dataset
from lae_jax.hyperparameters import HYPERPARAMETERS
from lae_jax.methods import METHODS, OPTIMIZERS, Method
from lae_jax.params import Array, gaussian
from lae_jax.theory import best, closed_form, eigenvalues
from lae_jax.theory.bounds import BOUNDS
from lae_jax.training import batch, loop, settings, sweeps
from lae_jax.training.settings import Settings

# Passes of something, as many as asked for; what is returned is waited for.
State = TypeVar("State")  # what is carried from pass to pass
Candidate = Callable[[int], object]
Products = Callable[[Covariance, Array, Array], tuple[Array, Array]]  # of C, W1 and W2


class Measurement(NamedTuple):
    """A value, and what it is held against."""

    what: str
    value: float
    unit: str
    reference: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value / reference."""
        return self.value / self.reference if self.reference else None


def seconds_of(candidate: Candidate, count: int) -> float:
    """Seconds that `count` passes take."""
    began = time.perf_counter()
    jax.block_until_ready(candidate(count))
    return time.perf_counter() - began


def in_turn(candidates: Sequence[Candidate], least: float, repeats: int) -> list[float]:
    """Seconds of one pass of each, compilation left out: medians of `repeats`, each of at least `least` seconds."""
    counts = []
    for candidate in candidates:
        seconds_of(candidate, 1)  # compiles
        count, elapsed = 1, seconds_of(candidate, 1)
        while elapsed < least:
            count = max(2 * count, int(1.2 * count * least / elapsed)) if elapsed else 2 * count
            elapsed = seconds_of(candidate, count)
        counts.append(count)
    rounds = [
        [seconds_of(candidate, count) / count for candidate, count in zip(candidates, counts, strict=True)]
        for _ in range(repeats)
    ]
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def random_data(input_dim: int, num_samples: int) -> dict[str, Covariance]:
    """The three forms of a covariance at this size: the values do not matter to the time."""
    rows = jax.random.normal(jax.random.key(0), (num_samples, input_dim), jnp.float32)
    variances = jnp.linspace(5.0, 0.01, input_dim, dtype=jnp.float32)
    return {"samples": Samples(rows), "dense": Dense(jnp.diag(variances)), "eigenbasis": Diagonal(variances)}


def rotates(method: Method) -> bool:
    """Whether a step of the method has the product of Algorithm 1 beside those of the gradient."""
    return method.spectrum == METHODS["rag"].spectrum


def bare_products(method: Method, data: Covariance, encoder: Array, decoder: Array) -> tuple[Array, Array]:
    """The matrix products of one step of Eq. (1) and nothing else: the floor of its time."""
    tiny = jnp.float32(1e-9)
    first, second = data.pair(encoder.T, decoder)
    moment, gram = encoder @ first, decoder.T @ decoder
    encoder_step, decoder_step = gram @ second.T, decoder @ moment
    if rotates(method):  # the decoder's rotation and gradient are one product
        encoder_step += moment @ encoder
    return tiny * encoder_step, tiny * decoder_step


def aligned_products(data: Covariance, encoder: Array, decoder: Array) -> tuple[Array, Array]:
    """The matrix products of one step of aligned descent and nothing else: 13, and that with C.

    Three are the moments of weights and latents, four the two directions, six take both to the fixed frame of the
    optimiser, back, and along with the latents.
    """
    tiny = jnp.float32(1e-9)
    through = data @ encoder.T
    moment, gram, rows = encoder @ through, decoder.T @ decoder, encoder @ encoder.T
    encoder_step, decoder_step = gram @ encoder, (decoder @ moment - through) @ rows + decoder @ gram
    for rotation, weights in ((moment, 0.0), (gram, 0.0), (rows, 1.0)):
        encoder_step = rotation @ (tiny * encoder_step + weights * encoder)
        decoder_step = (tiny * decoder_step + weights * decoder) @ rotation
    return tiny * encoder_step, tiny * decoder_step


def operations(method: Method, representation: str, input_dim: int, latent_dim: int, num_samples: int) -> int:
    """Additions and multiplications in `bare_products`, products with a diagonal left out."""
    passes = {"samples": 8 * num_samples * input_dim, "dense": 4 * input_dim**2, "eigenbasis": 0}[representation]
    return latent_dim * (passes + 2 * (5 if rotates(method) else 4) * input_dim * latent_dim)


def step_and_products(
    name: str, optimizer: str, data: Covariance, input_dim: int, latent_dim: int, runs: int = 1,
    products: Products | None = None,
) -> tuple[Candidate, Candidate]:  # fmt: skip
    """Steps of `runs` runs side by side that share the data, and their bare products, or those given."""
    method = METHODS[name]
    kind, spectrum = HYPERPARAMETERS.get(method.hyperparameter or ""), np.linspace(0.2, 0.1, latent_dim)
    hyperparameter = jnp.asarray(kind.default(spectrum, latent_dim), jnp.float32) if kind else None
    recipe = loop.Recipe(method, OPTIMIZERS[optimizer].build)
    problem = loop.Problem(data, jnp.float32(1e-4), jax.random.key(0), hyperparameter)

    def start(key: Array) -> tuple[tuple[Array, Array], loop.TrainState]:
        weights = gaussian(key, latent_dim, input_dim)
        return (weights.encoder, weights.decoder), loop.initial_state(recipe, problem, method.lift(weights))

    def one_step(state: loop.TrainState, key: Array, data: Covariance) -> loop.TrainState:
        return loop.step(recipe, problem._replace(key=key, data=data), state)

    alone = products or functools.partial(bare_products, method)

    def bare(weights: tuple[Array, Array], key: Array, data: Covariance) -> tuple[Array, Array]:
        return alone(data, *weights)

    def repeated(function: Callable[[State, Array, Covariance], State], first: State) -> Candidate:
        @jax.jit
        def passes(first: State, keys: Array, data: Covariance, count: int) -> State:
            return jax.lax.fori_loop(0, count, lambda _, carry: function(carry, keys, data), first)

        return functools.partial(passes, first, keys, data)

    keys = jax.random.split(jax.random.key(1), runs)
    weights, state = jax.vmap(start)(keys)
    if runs > 1:
        return repeated(jax.vmap(one_step, (0, 0, None)), state), repeated(jax.vmap(bare, (0, 0, None)), weights)
    weights, state, keys = jax.tree.map(lambda leaf: leaf[0], (weights, state, keys))
    return repeated(one_step, state), repeated(bare, weights)


def _step(
    name: str, form: str, data: Covariance, sizes: tuple[int, int], least: float, repeats: int,
    optimizer: str = "nesterov", runs: int = 1,
) -> Measurement:  # fmt: skip
    """Microseconds of a step at (m, k), held against its bare products."""
    step, bare = in_turn(step_and_products(name, optimizer, data, *sizes, runs), least, repeats)
    several = f", {runs} runs" if runs > 1 else ""
    return Measurement(f"{name}, {form}, k = {sizes[1]}{several}", 1e6 * step, "us", 1e6 * bare)


def steps(
    methods: Sequence[str], input_dim: int, num_samples: int, latent_dim: int, least: float, repeats: int
) -> Iterator[Measurement]:
    """A step of each method on each form of the covariance, then what the eigenbasis gains over samples."""
    found: dict[tuple[str, str], float] = {}
    for form, data in random_data(input_dim, num_samples).items():
        for name in methods:
            if form == "samples" or not METHODS[name].needs_samples:
                row = _step(name, form, data, (input_dim, latent_dim), least, repeats)
                found[name, form] = row.value
                yield row
                if name == "aligned":
                    pair = step_and_products(name, "nesterov", data, input_dim, latent_dim, products=aligned_products)
                    step, bare = in_turn(pair, least, repeats)
                    what = f"{row.what}: step / its own 13 products"
                    yield Measurement(what, 1e6 * step, "us", 1e6 * bare)
    for name in methods:
        if (name, "eigenbasis") in found:
            yield Measurement(f"{name}: samples / eigenbasis", found[name, "samples"], "us", found[name, "eigenbasis"])


def large_steps(
    input_dim: int, num_samples: int, latent_dims: Sequence[int], least: float, repeats: int
) -> Iterator[Measurement]:
    """A step of RAG with many latents, and how fast its products are beside the bare ones."""
    data = random_data(input_dim, num_samples)
    for latent_dim in latent_dims:
        for form, optimizer in (("eigenbasis", "nesterov"), ("dense", "adam")):
            row = _step("rag", form, data[form], (input_dim, latent_dim), least, repeats, optimizer)
            yield row
            billions = 1e-9 * operations(METHODS["rag"], form, input_dim, latent_dim, num_samples)
            reached, plain = (1e6 * billions / each for each in (row.value, row.reference or float("nan")))
            yield Measurement(f"{row.what}: reached / plain products", reached, "GF/s", plain)


def shared_step(
    input_dim: int, num_samples: int, latent_dim: int, runs: int, least: float, repeats: int
) -> Measurement:
    """A step of several runs of nested dropout that share the samples."""
    data = random_data(input_dim, num_samples)["samples"]
    return _step("nested_dropout", "samples", data, (input_dim, latent_dim), least, repeats, runs=runs)


def spectra(sizes: Sequence[tuple[int, int]]) -> Iterator[Measurement]:
    """Milliseconds of all eigenvalues of a Hessian in closed form, at sizes (m, k)."""
    for input_dim, latent_dim in sizes:
        variances, penalties = np.linspace(100, 1, input_dim), np.linspace(0.01, 0.9, latent_dim)
        began = time.perf_counter()
        closed_form.non_uniform_l2_spectrum(variances, penalties)
        what = f"all {2 * input_dim * latent_dim:,} eigenvalues, l2, m = {input_dim}, k = {latent_dim}"
        yield Measurement(what, 1e3 * (time.perf_counter() - began), "ms")


def theory(latent_dim: int, pairs: int) -> Iterator[Measurement]:
    """Milliseconds of the best penalties and prior, and of extreme eigenvalues and all bounds of many random pairs.

    The pairs, spectrum (k + 1,) and hyperparameter (k,), are one `jax.vmap` for each objective, compiled before.
    """
    linear = np.linspace(100, 1, 784)
    for what, search in (("penalties", best.optimal_penalties), ("prior", best.optimal_prior)):
        began = time.perf_counter()
        search(linear, latent_dim)
        yield Measurement(f"best {what}, linear spectrum, k = {latent_dim}", 1e3 * (time.perf_counter() - began), "ms")
    draw = np.random.default_rng(0)
    variances = np.sort(draw.uniform(1, 10, (pairs, latent_dim + 1)))[:, ::-1].copy()
    penalties = np.sort(draw.uniform(0.01, 0.99, (pairs, latent_dim))) * variances[:, -2:-1]
    prior = draw.dirichlet(np.ones(latent_dim), pairs)
    for objective, values, chosen in (
        ("non_uniform_l2", eigenvalues.non_uniform_l2, penalties),
        ("deterministic_nested_dropout", eigenvalues.nested_dropout, prior),
    ):
        held = [bound.value for bound in BOUNDS.values() if bound.objective == objective]

        @jax.jit
        @jax.vmap
        def all_of(spectrum: Array, given: Array, values: Callable = values, held: list = held) -> object:
            return eigenvalues.extremes(values(spectrum, given), True), [bound(spectrum, given) for bound in held]

        jax.block_until_ready(all_of(variances, chosen))
        began = time.perf_counter()
        jax.block_until_ready(all_of(variances, chosen))
        what = f"{pairs:,} pairs, {objective}, k = {latent_dim}: extreme eigenvalues and bounds"
        yield Measurement(what, 1e3 * (time.perf_counter() - began), "ms")


def batch_and_loop(latent_dim: int, runs: int, num_steps: int, dataset: Dataset) -> dict[str, Candidate]:
    """RAG from several seeds: as a sweep batches them here, all side by side, and in a loop over the same program.

    A pass is `num_steps` steps of every run, at most 10 * `batch.ROWS_PER_CHUNK`, with a record every ten.
    """
    device, rows = jax.devices()[0], num_steps // 10
    each = [Settings(method="rag", latent_dim=latent_dim, seed=seed) for seed in range(runs)]
    built = [settings.build(settings.resolve(one, dataset)[0], dataset, [device]) for one in each]
    shared = batch.share((device,), batch.shared(built[0], dataset.components, latent_dim))
    alone = [batch.padded(one, latent_dim) for one in built]
    stacked, counts = batch.stack((device,), alone), np.full(runs, rows, np.int32)
    recipe, train_run = built[0].recipe, jax.jit(batch.train_run, static_argnums=0)

    def batched(at_a_time: int, count: int) -> object:
        return [batch.advance(recipe, (device,), at_a_time, shared, stacked, counts, 10, -1.0) for _ in range(count)]

    def looped(count: int) -> object:
        return [train_run(recipe, shared, run, rows, 10, -1.0) for _ in range(count) for run in alone]

    side_by_side = min(runs, sweeps.side_by_side(latent_dim, device.platform))
    return {
        "batch": functools.partial(batched, side_by_side),
        "side by side": functools.partial(batched, runs),
        "loop": looped,
    }


def batches(
    latent_dims: Sequence[int], runs: int, num_steps: int, dataset: Dataset, least: float, repeats: int
) -> Iterator[Measurement]:
    """Seconds of a batch, and of all its runs side by side, held against a loop over them."""
    for latent_dim in latent_dims:
        candidates = batch_and_loop(latent_dim, runs, num_steps, dataset)
        measured = dict(zip(candidates, in_turn(list(candidates.values()), least, repeats), strict=True))
        for name in ("batch", "side by side"):
            yield Measurement(f"{runs} runs, k = {latent_dim}: {name} / loop", measured[name], "s", measured["loop"])


def devices(latent_dims: Sequence[int], runs: int, num_steps: int, dataset: Dataset, repeats: int) -> Measurement:
    """Seconds of a sweep of RAG on all devices, held against the same on one."""
    each = [Settings(method="rag", latent_dim=k, seed=seed) for k in latent_dims for seed in range(runs)]
    resolved, every = [settings.resolve(one, dataset)[0] for one in each], jax.devices()

    def sweep(some: Sequence[jax.Device], count: int) -> None:
        for _ in range(count):
            sweeps.train(resolved, dataset, num_steps=num_steps, devices=some)

    together, one = in_turn([functools.partial(sweep, every), functools.partial(sweep, every[:1])], 0.0, repeats)
    return Measurement(f"{len(each)} runs: {len(every)} devices / one", together, "s", one)
