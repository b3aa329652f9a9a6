"""Install `lae_jax`. The launchers are run from the checkout and are not installed."""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ADDRESSES = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["lae_jax"]
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "lae_jax" / "__init__.py").read_text())[1]

setup(
    name="lae_jax",
    version=VERSION,
    description="How linear autoencoders learn principal components, in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="the lae_jax developers",
    license="Apache-2.0",
    project_urls={name.capitalize(): address for name, address in ADDRESSES.items() if address},
    keywords="jax optax autoencoder pca principal-components representation-learning",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["lae_jax", "lae_jax.*"]),
    package_data={"lae_jax": ["data/*.npz", "py.typed"]},
    install_requires=[
        "jax>=0.10",
        "jaxlib>=0.10",
        "optax>=0.2.8",
        "chex>=0.1.90",
        "absl-py>=2.0",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "scipy>=1.14",
        "scikit-learn>=1.5",  # the digits, and the exact PCA that results are held against
        "matplotlib>=3.9",
        "equinox>=0.13",  # errors at run time inside compiled programs
        "diffrax>=0.7",  # continuous-time limits
        "orbax-checkpoint>=0.11.20",
        "filelock>=3.16",
        "pooch>=1.8",
        "psutil>=6",
        "tqdm>=4.66",
        "threadpoolctl>=3.1",
        "narwhals>=2",  # frames of pandas, polars and Arrow
    ],
    extras_require={
        "test": [
            *("pytest>=8", "pytest-xdist>=3.5", "ruff", "mypy", "flax>=0.12", "tensorboardX>=2.6", "mpmath>=1.3"),
            *("pandas>=2.2", "polars>=1", "pyarrow>=17", "zarr>=3", "h5py>=3.11"),
        ],
        "docs": [
            "sphinx>=9",
            "myst-nb>=1.4",
            "sphinx-book-theme>=1.4",
            "sphinx-copybutton>=0.5.2",
            "sphinx-design>=0.8",
            "sphinx-mathjax-offline>=0.0.2",
            "pandas>=2.2",
        ],
        "tables": ["pyarrow>=17"],
        "tensorboard": ["tensorboardX>=2.6"],
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
    },
)
