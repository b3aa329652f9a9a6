"""Where samples come from: idx files (MNIST, Fashion-MNIST) and arrays of one's own.

An image set is looked for in a folder given, then the folder in $LAE_JAX_DATA, then the user's
cache; `download=True` fetches it into the cache. Its checksum is taken after decompression,
because mirrors and distributions compress the same bytes with different headers.
"""

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch

from lae_jax.data.shards import UNREADABLE, StoredSamples, check_count, check_samples, open_folder, unreadable
from lae_jax.data.table_files import FORMATS, StoredTable
from lae_jax.errors import InputError

ENVIRONMENT = "LAE_JAX_DATA"
_DEFLATE_RATIO = 1032  # the most bytes that one byte of a gzip file decompresses to


class ImageSet(NamedTuple):
    """Training images published as one idx file."""

    sha256: str  # of the decompressed file
    mirrors: tuple[str, ...]
    filename: str = "train-images-idx3-ubyte"


IMAGE_SETS = {
    "mnist": ImageSet(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion_mnist": ImageSet(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    ),
}


def read_idx(path: Path) -> tuple[np.ndarray, str]:
    """Unsigned bytes of an idx file, plain or gzipped, and the sha256 of its decompressed bytes.

    Raises InputError where the file is missing, truncated, corrupt or holds another type.
    """
    try:
        raw = path.read_bytes()
        compressed = raw[:2] == b"\x1f\x8b"
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) if compressed else io.BytesIO(raw) as file:
            start = file.read(4)
            if len(start) < 4 or start[:2] != b"\0\0" or start[2] != 8 or start[3] == 0:
                raise InputError(
                    f"{path}: not an idx file of unsigned bytes (starts with {start.hex()!r}, not '000008..')"
                )
            header = start + file.read(4 * start[3])
            if len(header) < 4 + 4 * start[3]:
                raise InputError(f"{path}: truncated: {len(header)} bytes end inside the header")
            shape = struct.unpack(f">{start[3]}I", header[4:])
            expected = len(header) + math.prod(shape)
            # A damaged header may promise any size: read no more than so many bytes can hold.
            most = _DEFLATE_RATIO * len(raw) if compressed else len(raw)
            content = header + (file.read(expected - len(header) + 1) if expected <= most else b"")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a readable idx file ({error}); fetch it again") from None
    if len(content) != expected:
        raise InputError(f"{path}: {len(content)} bytes or more where its header promises {expected}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape), hashlib.sha256(content).hexdigest()


def _candidates(name: str, data_dir: str) -> list[Path]:
    """The folders to look in: only the one that was given, or else the environment's and the cache."""
    if data_dir:
        folders = [Path(data_dir)]
    else:
        environment = os.environ.get(ENVIRONMENT)
        folders = ([Path(environment)] if environment else []) + [cache_folder(name)]
    return [found for folder in folders for found in (folder / name, folder)]


def cache_folder(name: str) -> Path:
    """Where a downloaded image set is kept."""
    return Path(pooch.os_cache("lae_jax")) / name


def find_images(name: str, data_dir: str = "") -> Path | None:
    """The idx file of an image set, or None where no folder has it."""
    filename = IMAGE_SETS[name].filename
    paths = [folder / (filename + suffix) for folder in _candidates(name, data_dir) for suffix in (".gz", "")]
    return next((path for path in paths if os.path.isfile(path)), None)


def download_images(name: str, mirrors: Sequence[str] = ()) -> Path:
    """Fetch an image set into the cache, from the first mirror that has it intact."""
    image_set = IMAGE_SETS[name]
    folder, filename = cache_folder(name), image_set.filename + ".gz"
    failures = []
    for mirror in mirrors or image_set.mirrors:
        (folder / (filename + ".part")).unlink(missing_ok=True)
        try:
            fetcher = pooch.HTTPDownloader(progressbar=True, timeout=20)
            pooch.retrieve(mirror + filename, None, fname=filename + ".part", path=folder, downloader=fetcher)
            _, digest = read_idx(folder / (filename + ".part"))
        except (OSError, InputError, ValueError) as error:
            failures.append(f"{mirror} ({type(error).__name__})")
        else:
            if digest == image_set.sha256:
                os.replace(folder / (filename + ".part"), folder / filename)
                return folder / filename
            failures.append(f"{mirror} (sha256 {digest[:12]}..., not {image_set.sha256[:12]}...)")
        (folder / (filename + ".part")).unlink(missing_ok=True)
    raise InputError(
        f"{name}: no mirror gave {filename}: {'; '.join(failures)}; put it in a folder and name it as data_dir"
    )


def load_images(name: str, data_dir: str = "", download: bool = False) -> np.ndarray:
    """Training images of an image set, uint8 (n, height, width).

    Raises InputError where there are none, saying what to do, or where the checksum differs.
    """
    path = find_images(name, data_dir)
    if path is None and download and not data_dir:
        path = download_images(name)
    image_set = IMAGE_SETS[name]
    if path is None:
        where = data_dir or f"${ENVIRONMENT} or {cache_folder(name)}"
        raise InputError(
            f"{name}: no samples in {where}: set data_dir to a folder with {image_set.filename}.gz, or download=True"
        )
    images, digest = read_idx(path)
    if digest != image_set.sha256:
        raise InputError(f"{path}: sha256 of its decompressed bytes is {digest}, not {image_set.sha256} of {name}")
    return images


def _array(stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    array = stored[name]
    if not isinstance(array, np.ndarray):  # numpy hands on the bytes of an entry that is not .npy
        raise ValueError(f"{name} is not an array")
    return array


def load_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """These arrays of a .npz file. Raises InputError where the file or one of `names` is missing or corrupt."""
    try:
        # Opened here: numpy leaves a file open that it opens itself, if it is a damaged .npz.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            if missing := [name for name in names if name not in stored]:
                raise InputError(f"{path}: has no array {missing[0]!r}; need {', '.join(names)}")
            return {name: _array(stored, name) for name in (*names, *optional) if name in stored}
    except InputError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def load_array(path: Path, columns: Sequence[str] = ()) -> np.ndarray | StoredSamples | StoredTable:
    """Samples, as stored, in a .npz file with one array, or read on demand: a .npy file, a table, a folder of either.

    Args:
        path: the file or folder.
        columns: the names of those of a table that are samples; () for all.

    Raises:
        InputError: where a file is missing or corrupt, or does not hold numbers with samples along the first axis.
    """
    folder = os.path.isdir(path)
    kind = (_kind_of(path) if folder else path.suffix) or ".npy"
    if kind in FORMATS:
        table = StoredTable(sorted(path.glob(f"*{kind}")) if folder else [path], columns)
        check_samples(path, table.shape, table.dtype)
        check_count(path, table.shape)
        return table
    if columns:
        raise InputError(f"columns: {tuple(columns)}: {path} is no table, and has no columns of such names")
    if kind != ".npz":
        samples = open_folder(path) if folder else StoredSamples([path])
        check_count(path, samples.shape)
        return samples
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            if len(stored.files) != 1:
                raise InputError(f"{path}: holds the arrays {', '.join(stored.files) or 'none'}; need exactly one")
            array = _array(stored, stored.files[0])
    except InputError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    check_samples(path, array.shape, array.dtype)
    check_count(path, array.shape)
    return array


def _kind_of(folder: Path) -> str:
    """The suffix of the parts of samples in a folder: .npy, or else that of its tables; "" for none."""
    kinds = sorted({each.suffix for each in folder.iterdir()} & {".npy", *FORMATS})
    if ".npy" not in kinds and len(kinds) > 1:
        raise InputError(f"{folder}: holds {' and '.join(kinds)} files; need those of one kind")
    return ".npy" if ".npy" in kinds else "".join(kinds)
