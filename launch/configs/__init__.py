"""The configurations of the launchers: `get_config` of each file, with what its fields mean in comments."""

from collections.abc import Iterable

from lae_jax.errors import unknown_name


def check_variant(variant: str, known: Iterable[str]) -> None:
    """Raises InputError where what is behind the colon of FILE.py:VARIANT, if anything, is none of those known."""
    if variant and variant not in known:
        raise unknown_name("variant", variant, known)
