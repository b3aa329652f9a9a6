"""Make lae_jax/data/mnist_moments.npz, the moments that ship, from the MNIST samples.

    python -m launch.mnist_moments FOLDER

FOLDER holds train-images-idx3-ubyte.gz. The file is exact: integer sums of pixels and of products
of pixels over the 60,000 training images, the upper triangle row by row.
"""

import sys

import numpy as np

from lae_jax.data.datasets import MOMENTS_FILE
from lae_jax.data.moments import image_moments
from lae_jax.data.sources import load_images


def main(folder: str) -> None:
    """Write the file that the package ships."""
    images = load_images("mnist", folder)
    sums, moments = image_moments(images)
    triangle = moments[np.triu_indices(len(sums))]
    assert triangle.max() < 2**32
    MOMENTS_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(MOMENTS_FILE, num_samples=len(images), sums=sums, second_moments=triangle.astype(np.uint32))
    print(f"{MOMENTS_FILE}: {MOMENTS_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
