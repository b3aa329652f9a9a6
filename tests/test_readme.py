"""The README's Python is run, and its commands exist."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_rag_in_ones_own_code():
    block = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if block.startswith("import"))
    names: dict = {}
    exec(block, names)
    data, params = names["data"], names["params"]
    _, components = jnp.linalg.eigh(data.rows.T @ data.rows)
    cosines = jnp.abs(components[:, ::-1][:, :3].T @ (params.decoder / jnp.linalg.norm(params.decoder, axis=0)))
    np.testing.assert_allclose(cosines, jnp.eye(3), atol=0.03)


def test_every_launcher_named_exists():
    for name in set(re.findall(r"python -m launch\.(\w+)", README)):
        assert (ROOT / "launch" / f"{name}.py").is_file(), name


def test_every_test_file_named_exists():
    for name in set(re.findall(r"`(tests/\w+\.py)`", README)):
        assert (ROOT / name).is_file(), name
