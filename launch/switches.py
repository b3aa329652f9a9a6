"""The global switches of JAX, which are a launcher's to set."""

import contextlib
from pathlib import Path

import jax

from lae_jax.errors import InputError


def cache_programs(folder: Path) -> None:
    """Keep every compiled program there, however small."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"compilation_cache: cannot write {folder} ({error.strerror}); give another folder") from None
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def set_precision(precision: str, matmul_precision: str) -> None:
    """Double precision on or off, and the precision of matrix products on accelerators."""
    jax.config.update("jax_enable_x64", precision == "float64")
    jax.config.update("jax_default_matmul_precision", matmul_precision)


def devices(asked: int) -> list[jax.Device]:
    """The first `asked` devices, on a CPU that many virtual ones; 0: all there are. Raises InputError."""
    if asked > 1:
        with contextlib.suppress(RuntimeError):  # JAX has started already, with the devices it has
            jax.config.update("jax_num_cpu_devices", asked)  # no effect where there is a GPU or TPU
    found = jax.devices()
    if asked > len(found):
        raise InputError(f"devices: {asked} asked for, but there are {len(found)} ({found[0].platform})")
    if asked and jax.process_count() > 1 and asked != len(found):
        raise InputError(f"devices: {asked} asked for, but the processes have {len(found)} and use them all")
    return found[: asked or None]
