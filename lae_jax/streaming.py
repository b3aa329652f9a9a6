"""From a stream of batches to principal components in one call: each sample is read once, and none is kept."""

import io
import itertools
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm

from lae_jax.components import Components
from lae_jax.data import hosts, layouts
from lae_jax.data.arrays import FillValues, SamplesLike, as_samples
from lae_jax.data.batches import checked_batch
from lae_jax.data.sources import load_arrays
from lae_jax.data.spectra import oriented
from lae_jax.data.tables import names_of
from lae_jax.errors import InputError
from lae_jax.fitting import Fit
from lae_jax.params import numpy_weights
from lae_jax.training import low_rank
from lae_jax.training.low_rank import StreamRule, StreamState

SECONDS_BETWEEN_CHECKPOINTS = 60.0


def fit_stream(
    batches: Iterable[SamplesLike],
    latent_dim: int,
    *,
    input_dim: int | None = None,
    spare: int | None = None,
    forget: float = 0.0,
    center: bool = True,
    seed: int = 0,
    precision: str = "float32",
    checkpoint: str | Path | None = None,
    replayed: bool = True,
    progress: bool = True,
    column_parts: int = 1,
) -> Fit:
    """The principal components of a stream, by the rule of `lae_jax.training.low_rank`: no learning rate, one pass.

    After n samples they are, within a few percent, as near to the components of the population as the eigenvectors of
    the covariance of those samples, which nothing can better; memory is O(m (k + spare)), whatever n.

    Args:
        batches: any iterable of batches (n_i, ...), of any sizes; how the stream is cut changes no bit. Passing over
            the data again, as in `itertools.chain(*[loader] * 3)`, is allowed and seldom needed.
        latent_dim: k.
        input_dim: m. None: that of the first batch.
        spare: directions kept beside the k. None: half as many, and at least 10. With none the limit is missed.
        forget: the part of its weight that a sample loses with each one after it, in [0, 1): about the last
            1 / forget samples count, for data that drift. 0: all alike.
        center: whether to subtract the mean, which is followed exactly.
        seed: of the directions before the first sample.
        precision: `float32`, or `float64` with jax_enable_x64.
        checkpoint: a file .npz to keep the state in: every minute, at the end, and where the loop is left by an
            error or Ctrl-C. The same call then goes on from there, and ends with the bits of one never interrupted.
        replayed: whether `batches` begins again with its first batch when the call is repeated, as a data loader does
            (those in the checkpoint are then read past); False: it brings new ones alone.
        progress: whether to show a bar, on a terminal.
        column_parts: equal parts that the inputs of what is kept are cut into, each on a device of its own.

    Of several processes (`jax.distributed`) each gives batches of its own, and all find the components of all of them.

    Returns:
        Weights W1 = W2^T = the components; `history` has the columns `samples`, how many were read, and `error`, the
        mean squared error of the last block of them before they were learned from; `settings` is the rule.

    Raises:
        InputError: at an argument out of range, a batch that is not samples of m real numbers, no batches, samples
            that do not vary, a checkpoint of another stream, or one where there are several processes; in one line.
    """
    path, batches, seen = Path(checkpoint).expanduser() if checkpoint else None, iter(batches), 0
    errors: list[float] = []
    if path is not None and jax.process_count() > 1:
        raise InputError(f"checkpoint: {path}: several processes keep none of a stream; leave it out")
    if input_dim is None:
        first = next(batches, None)
        if first is None:
            raise InputError("batches: there are none; need at least one batch (n_i, m)")
        input_dim = int(np.prod(as_samples("batches: batch 0", first).shape[1:]))
        batches = itertools.chain([first], batches)
    rule = low_rank.stream_rule(latent_dim, input_dim, spare=spare, forget=forget, center=center, precision=precision)
    state = low_rank.start(rule, input_dim, seed, column_parts)
    if path is not None and path.exists():
        loaded, errors, seen = _load(path, rule, input_dim, seed)
        mesh = layouts.mesh_under(state.vectors)
        state = loaded._replace(vectors=layouts.place(loaded.vectors, mesh, input_dim))
        batches = itertools.islice(batches, seen if replayed else 0, None)
    saved, fill_values, columns = time.monotonic(), FillValues(), None
    shown = progress and hosts.is_first()
    bar = tqdm.tqdm(hosts.in_step(batches), initial=seen, unit=" batches", disable=None if shown else True)
    try:
        for batch in bar:
            if batch is None and jax.process_count() > 1:
                batch = np.zeros((0, input_dim), np.float32)  # others have more
            else:
                samples = as_samples(f"batches: batch {seen}", batch)
                columns = columns or names_of(samples)
                batch = checked_batch(seen, samples, input_dim, columns)
                fill_values.add(batch)
            fill_values.check(f"batches: up to batch {seen}:")
            state, more = low_rank.extend(rule, state, batch)
            errors, seen = errors + more, seen + 1
            if path is not None and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(path, rule, seed, state, errors, seen)
                saved = time.monotonic()
    finally:
        if path is not None and seen:
            _save(path, rule, seed, state, errors, seen)
    if not seen:
        raise InputError("batches: there are none; need at least one batch (n_i, m)")
    result = fit_of(rule, low_rank.finish(rule, state), errors)
    names = None if columns is None else np.asarray(columns)
    return result._replace(components=result.components._replace(feature_names=names))


def fit_of(rule: StreamRule, state: StreamState, errors: list[float]) -> Fit:
    """What a stream has found once `low_rank.finish` has taken up its last samples. Raises InputError if none vary."""
    variances = np.asarray(state.variances, np.float64)
    total = float(variances.sum() + state.outside)
    if not total > 0:
        raise InputError("batches: the samples do not vary; nothing to learn")
    floor = len(state.mean) * np.finfo(rule.precision).eps * variances[0]
    rank = min(rule.latent_dim, int(np.sum(variances > floor)))
    vectors = oriented(layouts.to_host(state.vectors).astype(np.float64)[:, : rule.latent_dim])
    components = Components(
        components=vectors.T[:rank],
        explained_variance=variances[:rank] * state.unit**2,
        explained_variance_ratio=variances[:rank] / total,
        mean=state.mean,
        scale=1.0,
        latents=np.arange(rank),
    )
    decoder = vectors.astype(rule.precision)
    samples = rule.block * np.arange(1, len(errors) + 1)
    notes = (
        () if rank == rule.latent_dim else (f"latent_dim: {rule.latent_dim}: the samples vary in {rank} directions",)
    )
    params = numpy_weights(decoder.T.copy(), decoder)
    return Fit(params, components, {"samples": samples, "error": np.asarray(errors)}, rule, notes)


def _said(rule: StreamRule, input_dim: int, seed: int) -> dict[str, str | float]:
    return {**rule._asdict(), "input_dim": input_dim, "seed": seed}


def _save(path: Path, rule: StreamRule, seed: int, state: StreamState, errors: list[float], seen: int) -> None:
    said = json.dumps(_said(rule, len(state.mean), seed))
    content = io.BytesIO()
    np.savez(content, **state._asdict(), errors=np.asarray(errors), batches=seen, said=said)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.getvalue())
    os.replace(part, path)


def _load(path: Path, rule: StreamRule, input_dim: int, seed: int) -> tuple[StreamState, list[float], int]:
    arrays = load_arrays(path, [*StreamState._fields, "errors", "batches", "said"])
    before, now = json.loads(str(arrays["said"])), _said(rule, input_dim, seed)
    if different := [name for name in now if now[name] != before.get(name)]:
        name = different[0]
        raise InputError(
            f"checkpoint: {path} is of a stream with {name} {before.get(name)!r}, not {now[name]!r}; give another file"
        )
    # Arrays, but for three numbers.
    values: dict[str, Any] = {name: arrays[name] for name in StreamState._fields}
    values |= {name: values[name].item() for name in ("weight", "unit", "num_rows")}
    return StreamState(**values), arrays["errors"].tolist(), int(arrays["batches"])
