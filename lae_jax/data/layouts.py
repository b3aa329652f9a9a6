"""How samples, covariances and weights lie on devices: rows of samples over some of them, inputs over others.

A mesh has the axes `rows` and `columns`. What has an axis of m inputs is cut along it into equal parts, one for each
device along `columns`; samples are cut along both; k x k matrices and all else are on every device. Programs are
written for one device: the compiler puts in the sums between devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from lae_jax.covariance import Samples
from lae_jax.data.moments import BLOCK_BYTES
from lae_jax.errors import InputError

Placed = TypeVar("Placed")


def mesh_of(devices: Sequence[jax.Device], input_dim: int, column_parts: int = 1) -> Mesh | None:
    """The mesh of these devices, the inputs cut into so many parts; None where one device of one process holds all.

    Raises InputError where the parts would not be equal.
    """
    if column_parts < 1 or len(devices) % column_parts:
        raise InputError(f"column_parts: {column_parts}: must divide the number of devices, {len(devices)}")
    if input_dim % column_parts:
        fitting = max(parts for parts in range(1, column_parts) if not input_dim % parts and not len(devices) % parts)
        raise InputError(
            f"column_parts: {column_parts} equal parts of {input_dim} inputs there are not; take {fitting}, or leave"
            f" {input_dim % column_parts} of the inputs out"
        )
    if len(devices) == 1 and jax.process_count() == 1:
        return None
    return Mesh(np.asarray(devices).reshape(-1, column_parts), ("rows", "columns"))


def mesh_under(tree: object) -> Mesh | None:
    """The mesh that the arrays of a tree lie on; None where they are on one device."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    return next((cast(Mesh, each.mesh) for each in shardings if isinstance(each, NamedSharding)), None)


def place(tree: Placed, mesh: Mesh | None, input_dim: int) -> Placed:
    """Arrays that every process holds, on the devices of a mesh; the tree itself without one."""
    if mesh is None:
        return tree

    def put(leaf: ArrayLike) -> jax.Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        inputs = [axis for axis, size in enumerate(array.shape) if size == input_dim][:1]
        spec = PartitionSpec(*("columns" if axis in inputs else None for axis in range(array.ndim)))
        return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), lambda where: array[where])

    return jax.tree.map(put, tree)


def spread_rows(
    load_rows: Callable[[slice], np.ndarray], shape: tuple[int, int], dtype: DTypeLike, mesh: Mesh | None
) -> Samples:
    """Samples (n, m) on a mesh, each device with its part; rows of zeros fill the last parts.

    Args:
        load_rows: gives a part of the rows. It is asked for those alone that devices of this process hold.
        shape: (n, m).
        dtype: of the samples on the devices.
        mesh: of `mesh_of`.
    """
    num_samples, input_dim = shape
    if mesh is None:
        return Samples(jax.device_put(load_rows(slice(None)).astype(dtype, copy=False), jax.local_devices()[0]))
    share = -(-num_samples // mesh.shape["rows"])
    filled = (share * mesh.shape["rows"], input_dim)
    sharding = NamedSharding(mesh, PartitionSpec("rows", "columns"))
    places: dict[int, dict[jax.Device, slice]] = {}  # first row -> the columns that devices have of it and those after
    indices = cast(dict[jax.Device, tuple[slice, slice]], sharding.addressable_devices_indices_map(filled))
    for device, (rows, columns) in indices.items():
        places.setdefault(rows.start or 0, {})[device] = columns
    width, least = input_dim // mesh.shape["columns"], BLOCK_BYTES // (8 * input_dim)
    block, pieces = max(1, share // 8, least), []  # the parts are filled block by block, not copied whole
    for first, holders in places.items():
        parts = {device: np.zeros((share, width), dtype) for device in holders}
        last = min(first + share, num_samples)
        for start in range(first, last, block):
            loaded = load_rows(slice(start, min(start + block, last)))
            for device, columns in holders.items():
                parts[device][start - first : start - first + len(loaded)] = loaded[:, columns]
        pieces += [jax.device_put(part, device) for device, part in parts.items()]
    return Samples(jax.make_array_from_single_device_arrays(filled, sharding, pieces), num_samples)


def stacked_rows(rows: np.ndarray, mesh: Mesh | None) -> np.ndarray | jax.Array:
    """Rows (b, m) of every process, one under the other on a mesh with a line of devices for each process."""
    if mesh is None:
        return rows
    sharding = NamedSharding(mesh, PartitionSpec("rows", "columns"))
    return jax.make_array_from_process_local_data(sharding, rows, (len(rows) * mesh.shape["rows"], rows.shape[1]))


def to_host(tree: Any) -> Any:  # of one structure, but JAX's arrays have become numpy's, which no type can say
    """A tree of arrays as numpy arrays, all of it in every process."""

    def fetched(leaf: ArrayLike) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(fetched, tree)
