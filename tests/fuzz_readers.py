"""Damaged and odd inputs of every reader: each ends in one line of InputError or in a correct result.

python -m tests.fuzz_readers [--count=20000] [--seed=0]

Prints how many cases ended how, reader by reader; exit status 1 and the cases where one ended otherwise: another
exception, a result that is not what the file says, more than 10 seconds. Memory is limited to 4 GiB more than
is in use at the start, so that an allocation from a garbled size is seen.
"""

import argparse
import collections
import contextlib
import gzip
import io
import json
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path

import absl.flags
import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import scipy.sparse

from lae_jax.data import datasets, sources
from lae_jax.errors import InputError
from lae_jax.methods import METHODS
from lae_jax.params import LAEParams
from lae_jax.runs import directory, storage
from lae_jax.runs.checkpoints import Checkpoints
from lae_jax.training import settings
from lae_jax.training.loop import TrainState
from launch import command_line, common

SECONDS = 10  # of processor time that one input may take: a machine at work on other things is no hang
ROWS = np.random.default_rng(0).standard_normal((9, 4))
WEIGHTS = {"encoder": ROWS[:2], "decoder": ROWS[:4, :2]}
DATASET = datasets.from_samples("x", ROWS)
DESCRIPTION = json.loads(json.dumps(directory.describe(directory.RunConfig(dataset="x", latent_dim=2), DATASET)))
CSV = "step,loss,axis_alignment\n0,1.5,0.25\n10,1e-3,0.125\n20,nan,inf\n"


class WrongError(Exception):
    """A result that is not what the input says."""


def require(condition):
    """Raises WrongError where a result is wrong."""
    if not condition:
        raise WrongError


# Bytes


def flip(generator, content):
    """Some bits of it the other way round, more often near the start, where headers are."""
    damaged = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        end = len(damaged) if generator.random() < 0.5 else min(len(damaged), 128)
        if end:
            damaged[generator.integers(end)] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def cut(generator, content):
    """Its beginning."""
    return content[: generator.integers(len(content) + 1)]


def lengthen(generator, content):
    """With bytes after the end."""
    return content + generator.bytes(int(generator.integers(1, 200)))


def move(generator, content):
    """With a piece of it left out, doubled, or put elsewhere."""
    start, stop, place = (int(each) for each in generator.integers(len(content) + 1, size=3))
    piece = content[min(start, stop) : max(start, stop)]
    left = content[: min(start, stop)] + content[max(start, stop) :] if generator.random() < 0.5 else content
    return left[:place] + piece + left[place:] if generator.random() < 0.7 else left


def number(generator, content):
    """With one of its decimal numbers another."""
    found = list(re.finditer(rb"\d+", content))
    if not found:
        return flip(generator, content)
    which = found[generator.integers(len(found))]
    choices = [b"0", b"-1", b"1e400", b"nan", b"9" * 30, str(int(generator.integers(2**62))).encode(), b"1,1", b"True"]
    return content[: which.start()] + choices[generator.integers(len(choices))] + content[which.end() :]


def word(generator, content):
    """With four bytes of it at a limit of integers."""
    place = int(generator.integers(max(1, min(len(content), 200))))
    limit = [0, 1, 2**31 - 1, 2**31, 2**32 - 1][generator.integers(5)]
    return content[:place] + struct.pack("><"[generator.integers(2)] + "I", limit) + content[place + 4 :]


def nest(generator, content):
    """Brackets or text where something else was."""
    place = int(generator.integers(len(content) + 1))
    texts = [b"(" * 3000, b"[" * 100_000, b"{'a':", b"\xff\xfe", b"\n\n", "é√".encode(), b"'" * 3, b"\0" * 50]
    return content[:place] + texts[generator.integers(len(texts))] + content[place:]


DAMAGES = (flip, cut, lengthen, move, number, word, nest)


def damaged(generator, content):
    """The content after one to three damages."""
    for _ in range(generator.integers(1, 4)):
        content = DAMAGES[generator.integers(len(DAMAGES))](generator, content)
    return content


def npy(array):
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(entries, compression=zipfile.ZIP_STORED):
    """The bytes of a .npz file with these entries, whatever their bytes are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def any_array(generator):
    """Samples of some type, layout and shape."""
    dtype = ["f8", "f4", ">f4", "f2", "u1", "i8", "?"][generator.integers(7)]
    array = (100 * ROWS).astype(dtype).reshape([(9, 4), (9, 2, 2)][generator.integers(2)])
    return np.asarray(array, order="CF"[generator.integers(2)])


# Readers: (generator, folder) -> None where the result was correct


def read_idx(generator, folder):
    """An idx file, damaged before or after it is compressed."""
    content = damaged(generator, struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24)))
    if generator.random() < 0.6:
        content = gzip.compress(content) if generator.random() < 0.5 else damaged(generator, gzip.compress(content))
    (folder / "x.idx").write_bytes(content)
    images, _ = sources.read_idx(folder / "x.idx")
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    require(plain.endswith(images.tobytes()) and len(plain) == 4 + 4 * images.ndim + images.size)


def check_samples(path, expected):
    """Samples that were accepted are those that numpy reads from the bytes; their moments are their own."""
    samples = sources.load_array(path)
    array = np.asarray(samples)
    require(array.ndim >= 2 and array.dtype.kind in "fiub" and len(array) >= 2 and array.shape == samples.shape)
    require(np.array_equal(array, expected(), equal_nan=array.dtype.kind == "f"))
    check_moments(datasets.load(str(path)), array.reshape(len(array), -1).astype(np.float64))


def check_moments(dataset, rows):
    """The mean and the covariance are those of rows (n, m)."""
    with np.errstate(all="ignore"):
        mean, largest = rows.mean(axis=0), np.abs(rows).max()
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
    require(dataset.num_samples == len(rows) and np.isfinite(rows).all())
    require(np.abs(dataset.mean - mean).max() <= 1e-10 * largest)
    require(np.abs(dataset.covariance - covariance).max() <= 1e-10 * largest**2)


def read_npy(generator, folder):
    """A .npy file, with its moments."""
    content = damaged(generator, npy(any_array(generator)))
    (folder / "x.npy").write_bytes(content)
    check_samples(folder / "x.npy", lambda: np.load(io.BytesIO(content)))


def read_npz(generator, folder):
    """A .npz file, damaged inside an entry, outside, or both."""
    entry = npy(any_array(generator))
    entry = damaged(generator, entry) if generator.random() < 0.6 else entry
    content = npz({"x": entry}, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][generator.integers(2)])
    content = damaged(generator, content) if generator.random() < 0.6 else content
    (folder / "x.npz").write_bytes(content)
    check_samples(folder / "x.npz", lambda: next(iter(np.load(io.BytesIO(content)).values())))


# Suffix -> how pyarrow writes a table, and how it reads one whole.
TABLES = {
    ".parquet": (pyarrow.parquet.write_table, pyarrow.parquet.read_table),
    ".feather": (pyarrow.feather.write_feather, lambda path: pyarrow.ipc.open_file(path).read_all()),
    ".csv": (pyarrow.csv.write_csv, pyarrow.csv.read_csv),
}


def read_table(generator, folder):
    """A table in a file, with its moments."""
    suffix = list(TABLES)[generator.integers(len(TABLES))]
    path, (write, read) = folder / f"x{suffix}", TABLES[suffix]
    write(pyarrow.table({name: generator.standard_normal(12) for name in "abc"}), path)
    path.write_bytes(damaged(generator, path.read_bytes()))
    dataset = datasets.load(str(path))
    columns = [column.to_numpy() for column in read(path).columns]
    check_moments(dataset, np.column_stack(columns).astype(np.float64))
    require(len(dataset.columns) == len(columns))


def read_folder(generator, folder):
    """A folder of shards, one of them damaged."""
    (folder / "shards").mkdir()
    hit, contents = generator.integers(3), []
    for index, part in enumerate(np.split(any_array(generator), [2, 5])):
        content = npy(part) if index != hit else damaged(generator, npy(part))
        (folder / "shards" / f"{index}.npy").write_bytes(content)
        contents.append(content)
    check_samples(folder / "shards", lambda: np.concatenate([np.load(io.BytesIO(each)) for each in contents]))


def in_a_container(generator, rows):
    """Rows (n, m) as people hand them over, and the numbers that are meant, or None where there are none."""
    hidden = generator.random(rows.shape) < 0.1
    numbers = rows.astype(np.float16)
    gaps = np.where(hidden, [np.nan, np.inf, 1e20, -9.97e36][generator.integers(4)], rows)
    kinds = {
        "a mask that hides something": lambda: (np.ma.masked_array(gaps, hidden), None if hidden.any() else rows),
        "a mask that hides nothing": lambda: (np.ma.masked_array(rows, hidden & False), rows),
        "missing values": lambda: (gaps, None if hidden.any() else rows),
        "sparse": lambda: (SPARSE[generator.integers(len(SPARSE))](rows * hidden), rows * hidden),
        "half precision": lambda: (numbers, numbers),
        "bfloat16": lambda: (rows.astype(jnp.bfloat16), rows.astype(jnp.bfloat16)),
        "of JAX": lambda: (jnp.asarray(rows, jnp.float16), numbers),
        "objects that are numbers": lambda: (rows.astype(object), None),
        "objects that are not": lambda: (np.where(hidden, None, rows), None),
        "text": lambda: (rows.astype(str), None),
        "complex": lambda: (rows + 1j * hidden, None),
        "a matrix": lambda: (np.asmatrix(rows), rows),
        "lists": lambda: (rows.tolist(), rows),
        "lists of different lengths": lambda: ([*rows.tolist(), [0.0]], None),
        "a pair": lambda: ((rows, np.arange(len(rows))), None),
        "a dictionary": lambda: ({"image": rows}, None),
        "nothing": lambda: ([None, [], 0.5, "x", rows[:0], rows[:1], rows[:, :1]][generator.integers(7)], None),
        "backwards": lambda: (rows[::-1, ::-1], rows[::-1, ::-1]),
        "not to be written to": lambda: (np.lib.stride_tricks.as_strided(rows, writeable=False), rows),
    }  # fmt: skip
    return kinds[list(kinds)[generator.integers(len(kinds))]]()


SPARSE = (scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array, scipy.sparse.lil_array)


def read_samples(generator, folder):
    """Samples in memory, in any container."""
    scale = 10.0 ** generator.integers(-3, 4)
    given, numbers = in_a_container(generator, scale * ROWS)
    dataset = datasets.from_samples("x", given)
    require(numbers is not None)
    check_moments(dataset, np.asarray(numbers, np.float64))


def as_a_launcher_says_it(error):
    """The error in the one line that `common.main` makes of it."""
    return InputError(" ".join(str(error).splitlines()))


# What names of folders are made of.
PIECES = ("job[1]", "[", "]", "*", "**", "?", "a\\b", "~", "~root", " ", "\t", "\n", "é√", "a" * 200, ".", "..", "-",
          "{x}", "$HOME", "%1", "'", '"', "#", ";", "gs://", ":", "=", ",", "checkpoints", "x.npz")  # fmt: skip


def read_workdir(generator, folder):
    """A folder of any name: what is written there is read again."""
    name = "".join(PIECES[index] for index in generator.integers(len(PIECES), size=generator.integers(1, 4)))
    try:
        common.folder_of(name)  # an address is refused
    except InputError as error:
        raise as_a_launcher_says_it(error) from None
    workdir = common.folder_of(str(folder / "results" / name))
    storage.claim(workdir, DESCRIPTION)
    state = TrainState(jnp.asarray(3, jnp.int32), {"x": jnp.asarray(ROWS, jnp.float32)}, ())
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save(state)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    require(found.step == 3 and np.array_equal(found.params["x"], state.params["x"]))
    storage.write_weights(workdir / "params.npz", LAEParams(**WEIGHTS))
    require(np.array_equal(storage.read_weights(workdir / "params.npz")["decoder"], WEIGHTS["decoder"]))
    require((workdir / "config.json").exists() and directory.read_config(workdir).latent_dim == 2)


def read_config_file(generator, folder):
    """A configuration file in Python."""
    (folder / "mine.py").write_bytes(damaged(generator, CONFIG.encode()))
    variant = ["", ":", ":aligned", ":é"][generator.integers(4)] if generator.random() < 0.3 else ""
    with with_flags(["train", f"--workdir={folder}", f"--config={folder / 'mine.py'}{variant}"]):
        directory.from_fields(dict(absl.flags.FLAGS.config))


def read_weights(generator, folder):
    """params.npz, as the run directory and as initial weights."""
    entries = {name: npy(value) for name, value in WEIGHTS.items()}
    name = list(entries)[generator.integers(2)]
    entries[name] = damaged(generator, entries[name])
    content = npz(entries)
    content = damaged(generator, content) if generator.random() < 0.5 else content
    (folder / "params.npz").write_bytes(content)
    require(set(storage.read_weights(folder / "params.npz")) == set(WEIGHTS))
    weights = settings.load_weights(str(folder / "params.npz"), 2, 4)
    require(weights.encoder.shape == (2, 4) and np.isfinite(weights.decoder).all())


def read_metrics(generator, folder):
    """metrics.csv of a run."""
    (folder / "metrics.csv").write_bytes(damaged(generator, CSV.encode()))
    columns = directory.read_metrics(folder)
    require(len({len(column) for column in columns.values()}) == 1)


def read_config(generator, folder):
    """config.json of a run that is to go on."""
    content = json.dumps(DESCRIPTION, indent=2).encode()
    (folder / "config.json").write_bytes(damaged(generator, content))
    storage.claim(folder, DESCRIPTION)


TEXTS = ("", " ", "\0", "x" * 5000, "../..", "rag", "adam", "samples", "float64", "é", "nan", "balanced", ".npz", "/")
NUMBERS = (0, 1, -1, 2, 3, 4, 2**31, 2**63, -(2**70))
FLOATS = (0.0, -0.0, 1e-320, 1e308, -1.0, 0.5, 1.0, float("nan"), float("inf"), -float("inf"))


def any_value(generator, value):
    """Another value of the type that a field has."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return TEXTS[generator.integers(len(TEXTS))]
    if isinstance(value, tuple):
        return tuple(FLOATS[index] for index in generator.integers(len(FLOATS), size=generator.integers(4)))
    return (
        NUMBERS[generator.integers(len(NUMBERS))] if isinstance(value, int) else FLOATS[generator.integers(len(FLOATS))]
    )


def read_fields(generator, folder):
    """Fields of the right type (flags are checked for it) and any value; sometimes a name that is none."""
    fields = {"dataset": "x", "latent_dim": 2, "method": str(generator.choice(list(METHODS)))}
    defaults = {
        name: value for name, value in vars(directory.RunConfig()).items() if name not in ("dataset", "download")
    }
    for name in generator.choice(list(defaults), generator.integers(1, 4), replace=False):
        fields[str(name)] = any_value(generator, defaults[str(name)])
    if generator.random() < 0.1:
        fields[TEXTS[generator.integers(len(TEXTS))]] = 1
    config, _ = directory.resolve(directory.from_fields(fields), DATASET)
    if config.precision == "float32":
        run = settings.build(config, DATASET)
        require(run.state.params.encoder.shape == (config.latent_dim, 4))


def read_name(generator, folder):
    """The field `dataset`, names and paths, and the options of a data set."""
    name = damaged(generator, b"synthetic").decode(errors="surrogateescape")
    options = {"input_dim": 3, "num_samples": 5, "data_seed": 0, "scale": 1.0, "center": True}
    if generator.random() < 0.7:
        name = ["synthetic", "digits"][generator.integers(2)]
        for option in generator.choice(list(options), 2, replace=False):
            options[str(option)] = any_value(generator, options[str(option)])
    dataset = datasets.load(name, **options)
    require(dataset.num_samples in (2, 3, 4, 5, 1797) and np.isfinite(dataset.variances).all())


CONFIG = """\"\"\"A configuration of one's own.\"\"\"

from launch.configs import train


def get_config(method="rag"):
    config = train.get_config()
    config.dataset = "synthetic"
    config.latent_dim, config.num_steps = 3, 100
    config.penalties = (0.5, 0.25, 0.125)
    config.learning_rate = 0.01
    config.method = method
    return config
"""


@contextlib.contextmanager
def with_flags(given):
    """The flags of launch.train, read from its command line."""
    before = set(absl.flags.FLAGS)
    try:
        command_line.parse(common.CONFIGS / "train.py", given)
        yield
    except InputError as error:
        raise as_a_launcher_says_it(error) from None
    finally:
        for name in set(absl.flags.FLAGS) - before:
            delattr(absl.flags.FLAGS, name)


def read_flags(generator, folder):
    """Flags of a launcher, as its command line gives them."""
    defaults = vars(directory.RunConfig())
    given = ["train", f"--workdir={folder}"]
    for name in generator.choice(list(defaults), generator.integers(1, 3), replace=False):
        text = f"{name}={defaults[str(name)]}".encode()
        text = damaged(generator, text) if generator.random() < 0.7 else text
        given.append("--config." + text.decode(errors="surrogateescape"))
    with with_flags(given):
        directory.from_fields(dict(absl.flags.FLAGS.config))


READERS = (
    read_idx, read_npy, read_npz, read_table, read_folder, read_samples, read_weights, read_metrics, read_config,
    read_fields, read_name, read_flags, read_config_file, read_workdir,
)  # fmt: skip


def attempt(reader, seed, folder):
    """How one case ends: "read", "refused", or what went wrong."""
    folder.mkdir()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        reader(np.random.default_rng(seed), folder)
    except InputError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error}"
    except Exception:
        return traceback.format_exc()
    else:
        return "read"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder)


def run(count, seed):
    """`count` cases, over the readers in turn: outcomes by reader; (reader, seed, traceback) of each that failed."""

    def late(*_):
        raise TimeoutError(f"not done in {SECONDS} seconds of processor time")

    outcomes, failures = collections.defaultdict(collections.Counter), []
    previous = signal.signal(signal.SIGPROF, late)
    try:
        with tempfile.TemporaryDirectory() as parent, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            absl.logging.set_verbosity(absl.logging.FATAL)  # as launchers do: the checkpoint library tells everything
            for index in range(count):
                reader = READERS[index % len(READERS)]
                ended = attempt(reader, (seed, index), Path(parent) / "case")
                if ended not in ("read", "refused"):
                    failures.append((reader.__name__, (seed, index), ended))
                    ended = "failed"
                outcomes[reader.__name__][ended] += 1
    finally:
        signal.signal(signal.SIGPROF, previous)
    return outcomes, failures


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**32, -1))
    outcomes, failures = run(arguments.count, arguments.seed)
    for name, counts in outcomes.items():
        print(f"{name:14}", ", ".join(f"{ended} {counts[ended]}" for ended in sorted(counts)))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    kinds = {(name, text.strip().splitlines()[-1]): (case, text) for name, case, text in reversed(failures)}
    for (name, _), (case, text) in kinds.items():
        print(f"\n{name}, case {case}:\n{text}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
