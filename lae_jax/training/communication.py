"""What devices tell each other in a step: by formula, and read off the compiled program.

The data enter a step through one product with C, and that is one exchange whose size is known: `exchanged_numbers`. All
else are sums of k x k matrices.

Legend: m inputs, n samples, b samples in a batch, k latents; w columns of the product (2 k: W1^T and W2; k for a rule
with one matrix).
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from lae_jax.data.datasets import Dataset
from lae_jax.training import loop
from lae_jax.training.settings import Experiment, Settings, build, resolve

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(_KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """An exchange between devices in a compiled program."""

    kind: str  # as XLA names it
    sizes: tuple[int, ...]  # numbers in each of the arrays exchanged together


def collectives(text: str) -> list[Collective]:
    """The exchanges in the text of a compiled program (`lowered.compile().as_text()`)."""
    return [
        Collective(kind, tuple(math.prod(map(int, filter(None, shape.split(",")))) for _, shape in _ARRAY.findall(out)))
        for out, kind in _OPERATION.findall(text)
    ]


def of_step(run: Experiment) -> list[Collective]:
    """The exchanges of one step of this run."""
    step = jax.jit(functools.partial(loop.step, run.recipe))
    return collectives(step.lower(run.problem, run.state).compile().as_text() or "")


def exchanged_numbers(settings: Settings, dataset: Dataset, devices: int) -> int:
    """Numbers for each column of the product with C that a step exchanges, where `devices` share the work.

    Samples cut by rows: the product (m, w) is summed. Cut by columns: the coordinates of the samples (n, w) are. The
    covariance cut by columns: what it is multiplied by (m, w) is gathered. In the eigenbasis nothing is.
    `settings` are resolved; batches cut by rows are `drawn_numbers` beside this.
    """
    rows, columns, m = devices // settings.column_parts, settings.column_parts, dataset.input_dim
    if settings.representation == "eigenbasis":
        return 0
    if settings.representation == "dense":
        return m if columns > 1 else 0
    here = settings.batch_size or -(-dataset.num_samples // rows)
    summed_over_rows = m // columns if rows > 1 and not settings.batch_size else 0
    return summed_over_rows + (here if columns > 1 else 0)


def drawn_numbers(settings: Settings, dataset: Dataset, devices: int) -> int:
    """Numbers of a batch (b, m) that is drawn from rows on several devices, and brought to all."""
    rows = devices // settings.column_parts
    return settings.batch_size * (dataset.input_dim // settings.column_parts) if rows > 1 else 0


# (representation, batch size, column parts for this many devices) of the layouts that `measure` goes over.
LAYOUTS: dict[str, tuple[str, bool, bool]] = {
    "eigenbasis, columns": ("eigenbasis", False, True),
    "covariance, columns": ("dense", False, True),
    "samples, rows": ("samples", False, False),
    "samples, columns": ("samples", False, True),
    "batches, rows": ("samples", True, False),
    "batches, columns": ("samples", True, True),
}


def measure(
    method: str, layout: str, dataset: Dataset, devices: Sequence[jax.Device], latent_dim: int, batch_size: int
) -> dict[str, str | int]:
    """What a step of a method exchanges on these devices, as it is compiled.

    Args:
        method: a name of METHODS.
        layout: a name of LAYOUTS.
        dataset: the data; n and m larger than k, so that k x k matrices are told from products.
        devices: that share the work.
        latent_dim: k.
        batch_size: b of the layouts with batches.

    Returns:
        A row: `exchanges`, how many collectives there are; `batch`, the numbers of the batch; `product`, those for the
        product with C, and `formula`, those by `exchanged_numbers` for the `columns` that the product has; `small`,
        all others.

    Raises:
        InputError: a layout that the method does not train in.
    """
    representation, in_batches, cut = LAYOUTS[layout]
    settings, _ = resolve(
        Settings(
            method=method,
            latent_dim=latent_dim,
            representation=representation,
            batch_size=batch_size if in_batches else 0,
            column_parts=len(devices) if cut else 1,
        ),
        dataset,
    )
    found = of_step(build(settings, dataset, devices))
    sizes = [size for each in found for size in each.sizes]
    batch = drawn_numbers(settings, dataset, len(devices))
    small = sum(size for size in sizes if size <= latent_dim**2)
    product, each = sum(sizes) - small - batch, exchanged_numbers(settings, dataset, len(devices))
    columns = round(product / each) if each else 0
    return {
        "method": method, "layout": layout, "devices": len(devices), "exchanges": len(found), "batch": batch,
        "product": product, "columns": columns, "formula": columns * each, "small": small,
    }  # fmt: skip
