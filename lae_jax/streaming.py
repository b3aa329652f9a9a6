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
        spare: directions kept beside the k. None: half as many, and at least 20. With none the limit is missed.
        forget: the part of its weight that a sample loses with each one after it, in [0, 1): about the last
            1 / forget samples count, for data that drift. 0: all alike.
        center: whether to subtract the mean, which is followed exactly.
        seed: of the directions before the first sample.
        precision: `float32`, or `float64` with jax_enable_x64.
        checkpoint: a file .npz to keep the state in: every minute, at the end, and where the loop is left by an
            error or Ctrl-C. The same call then goes on from there, and ends with the bits of one never interrupted.
            Of several processes the first writes this one and number i its own, with _i at the end of its name, all
            after the same batches; every minute and at the end.
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
            that do not vary, or a checkpoint of another stream; in one line.
    """
    hosts.meet()  # now, for batches may be long in coming
    path, batches, seen = _own(Path(checkpoint).expanduser()) if checkpoint else None, iter(batches), 0
    errors: list[float] = []
    if input_dim is None:
        first = next(batches, None)
        if first is None:
            raise InputError("batches: there are none; need at least one batch (n_i, m)")
        input_dim = int(np.prod(as_samples("batches: batch 0", first).shape[1:]))
        batches = itertools.chain([first], batches)
    rule = low_rank.stream_rule(latent_dim, input_dim, spare=spare, forget=forget, center=center, precision=precision)
    state = low_rank.start(rule, input_dim, seed, column_parts)
    if path is not None and (kept := _kept(path, rule, input_dim, seed)):
        loaded, errors, seen = kept
        mesh = layouts.mesh_under(state.vectors)
        state = loaded._replace(vectors=layouts.place(loaded.vectors, mesh, input_dim))
        batches = itertools.islice(batches, seen if replayed else 0, None)
    saved, ended, fill_values, columns = time.monotonic(), False, FillValues(), None
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
            # Clocks are each process's own; all save after the same batch.
            if path is not None and hosts.any_of(time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS)[0]:
                _save(path, rule, seed, state, errors, seen)
                saved = time.monotonic()
        ended = True
    finally:
        # An error is one process's own: the others would not be here to save with it.
        if path is not None and seen and (ended or jax.process_count() == 1):
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
    return {**rule._asdict(), "input_dim": input_dim, "seed": seed, "processes": jax.process_count()}


def _own(path: Path) -> Path:
    """The file of this process."""
    return path if hosts.is_first() else path.with_name(f"{path.stem}_{jax.process_index()}{path.suffix}")


def _part(path: Path) -> Path:
    """Where a file is written before it takes the place of the last one."""
    return path.with_name(path.name + ".part")


def _save(path: Path, rule: StreamRule, seed: int, state: StreamState, errors: list[float], seen: int) -> None:
    said = json.dumps(_said(rule, len(state.mean), seed))
    content = io.BytesIO()
    np.savez(content, **layouts.to_host(state)._asdict(), errors=np.asarray(errors), batches=seen, said=said)
    _part(path).write_bytes(content.getvalue())
    hosts.any_of()  # so that the last states or these are whole in all processes, wherever one is killed
    os.replace(_part(path), path)


_Kept = tuple[StreamState, list[float], int]


def _kept(path: Path, rule: StreamRule, input_dim: int, seed: int) -> _Kept | None:
    """State, errors and batches read when all processes last kept them; None where they never have."""
    found: dict[int, _Kept] = {}
    problem, offered = None, [0, 0]  # batches read
    for index, file in enumerate([path, _part(path)][: jax.process_count()]):
        try:
            if file.exists():
                kept = _load(file, rule, input_dim, seed)
                offered[index], found[kept[2]] = kept[2], kept
        except InputError as error:
            problem = problem or (error if file == path else None)  # the other may be half written
    told = hosts.from_each(np.array([*offered, problem is not None]))
    if problem:
        raise problem
    if told[:, 2].any():
        raise InputError(f"checkpoint: process {int(told[:, 2].argmax())} cannot go on from its part of {path}")
    if common := set.intersection(*(set(row[:2].astype(int).tolist()) for row in told)) - {0}:
        return found[max(common)]
    if told[:, 0].any():
        raise InputError(f"checkpoint: {path}: a process has none, or one of other batches; delete those of all")
    return None


def _load(path: Path, rule: StreamRule, input_dim: int, seed: int) -> _Kept:
    arrays = load_arrays(path, [*StreamState._fields, "errors", "batches", "said"])
    before, now = {"processes": 1, **json.loads(str(arrays["said"]))}, _said(rule, input_dim, seed)
    if different := [name for name in now if now[name] != before.get(name)]:
        name = different[0]
        raise InputError(
            f"checkpoint: {path} is of a stream with {name} {before.get(name)!r}, not {now[name]!r}; give another file"
        )
    # Arrays, but for three numbers.
    values: dict[str, Any] = {name: arrays[name] for name in StreamState._fields}
    values |= {name: values[name].item() for name in ("weight", "unit", "num_rows")}
    return StreamState(**values), arrays["errors"].tolist(), int(arrays["batches"])
