"""Files that are good, and every way in which they are not."""

import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest

from lae_jax.data import sources
from lae_jax.data.shards import StoredSamples
from lae_jax.errors import InputError
from tests.helpers import normal

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
IDX = struct.pack(">4B3I", 0, 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()
DIGEST = hashlib.sha256(IDX).hexdigest()
FILENAME = "train-images-idx3-ubyte"


def complaint(function, *arguments, **keywords):
    """The one line of the InputError that this raises."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **keywords)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    return text


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """An image set of five images, an empty cache and no environment; gives the cache."""
    monkeypatch.setitem(sources.IMAGE_SETS, "tiny", sources.ImageSet(DIGEST, ()))
    monkeypatch.setattr(sources, "cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv(sources.ENVIRONMENT, raising=False)
    return tmp_path / "cache" / "tiny"


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# idx files


@pytest.mark.parametrize(
    "content", [IDX, gzip.compress(IDX), gzip.compress(IDX, 1, mtime=7)], ids=["plain", "gz", "gz 1"]
)
def test_idx_is_read_whatever_its_compression(tmp_path, content):
    images, digest = sources.read_idx(put(tmp_path / "file", content))
    assert np.array_equal(images, IMAGES) and images.dtype == np.uint8
    assert digest == DIGEST


BAD_IDX = {
    "empty": (b"", "not an idx file"),
    "text": (b"<html>not found</html>", "not an idx file"),
    "floats": (b"\0\0\x0d\x03" + IDX[4:], "unsigned bytes"),
    "no axes": (b"\0\0\x08\0", "not an idx file"),
    "ends in the header": (IDX[:10], "truncated"),
    "ends in the images": (IDX[:-1], "promises 76"),
    "too long": (IDX + b"\0", "promises 76"),
    # 2^64 images, which no 64-bit product notices
    "huge promise": (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 4), "promises 18446744073709551632"),
    "gz cut": (gzip.compress(IDX)[:-12], "fetch it again"),
    "gz without a body": (gzip.compress(IDX)[:5], "fetch it again"),
    "gz with a flipped byte": (
        gzip.compress(IDX)[:30] + bytes([gzip.compress(IDX)[30] ^ 255]) + gzip.compress(IDX)[31:],
        "fetch it again",
    ),
    "gz with a wrong sum": (gzip.compress(IDX)[:-8] + bytes(8), "fetch it again"),
    "gz of something short": (gzip.compress(IDX[:-3]), "promises 76"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_IDX.values(), ids=list(BAD_IDX))
def test_bad_idx_is_named_with_the_reason(tmp_path, content, reason):
    path = put(tmp_path / "images.idx", content)
    text = complaint(sources.read_idx, path)
    assert text.startswith(f"{path}: ") and reason in text


def test_missing_idx_is_named(tmp_path):
    assert str(tmp_path / "none") in complaint(sources.read_idx, tmp_path / "none")
    assert str(tmp_path) in complaint(sources.read_idx, tmp_path)


# Where image sets are looked for


def test_folders_are_searched_in_order(tiny, tmp_path, monkeypatch):
    assert sources.find_images("tiny") is None
    cached = put(tiny / f"{FILENAME}.gz", gzip.compress(IDX))
    assert sources.find_images("tiny") == cached
    environment = put(tmp_path / "shared" / "tiny" / FILENAME, IDX)
    monkeypatch.setenv(sources.ENVIRONMENT, str(tmp_path / "shared"))
    assert sources.find_images("tiny") == environment
    given = put(tmp_path / "mine" / f"{FILENAME}.gz", gzip.compress(IDX))
    assert sources.find_images("tiny", str(tmp_path / "mine")) == given
    # A folder that was named and has nothing is not replaced by another one.
    assert sources.find_images("tiny", str(tmp_path / "empty")) is None
    assert np.array_equal(sources.load_images("tiny", str(tmp_path / "mine")), IMAGES)


def test_missing_images_say_what_to_do(tiny, tmp_path):
    text = complaint(sources.load_images, "tiny")
    assert text.startswith("tiny: ")
    assert all(word in text for word in (sources.ENVIRONMENT, str(tiny), "data_dir", f"{FILENAME}.gz", "download=True"))
    text = complaint(sources.load_images, "tiny", str(tmp_path / "empty"))
    assert str(tmp_path / "empty") in text and "data_dir" in text


def test_images_of_another_set_are_refused(tiny, tmp_path):
    other = struct.pack(">4B3I", 0, 0, 8, 3, *IMAGES.shape) + (255 - IMAGES).tobytes()
    path = put(tmp_path / "mine" / FILENAME, other)
    text = complaint(sources.load_images, "tiny", str(tmp_path / "mine"))
    assert text.startswith(str(path)) and DIGEST in text and hashlib.sha256(other).hexdigest() in text


# Downloads


@pytest.fixture
def server(monkeypatch):
    """`serve(path -> bytes)` on this machine; gives the address and the paths that were asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content, promised = files.get(self.path, (None, 0))
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def serve(folder, content, promised=None):
        files[f"/{folder}/{FILENAME}.gz"] = (content, len(content) if promised is None else promised)

    yield f"http://127.0.0.1:{running.server_port}", serve, asked
    running.shutdown()
    thread.join()
    running.server_close()


GOOD = gzip.compress(IDX)
BAD_MIRRORS = {
    "garbage": (b"<html>blocked</html>", None),
    "another set": (gzip.compress(IDX[:-1] + bytes([IDX[-1] ^ 1])), None),
    "cut": (GOOD[:20], len(GOOD)),
    "not found": None,
}


@pytest.mark.parametrize("bad", BAD_MIRRORS.values(), ids=list(BAD_MIRRORS))
def test_download_goes_on_to_the_next_mirror(tiny, server, bad):
    address, serve, asked = server
    if bad:
        serve("bad", *bad)
    serve("good", GOOD)
    path = sources.download_images("tiny", [f"{address}/bad/", f"{address}/good/"])
    assert asked == [f"/{folder}/{FILENAME}.gz" for folder in ("bad", "good")]
    assert [entry.name for entry in tiny.iterdir()] == [path.name] == [f"{FILENAME}.gz"]
    assert np.array_equal(sources.load_images("tiny"), IMAGES)


def test_download_that_fails_everywhere_names_each_mirror_and_leaves_nothing(tiny, server):
    address, serve, _ = server
    for folder, bad in (("one", "garbage"), ("two", "another set"), ("three", "cut")):
        serve(folder, *BAD_MIRRORS[bad])
    mirrors = [f"{address}/{folder}/" for folder in ("one", "two", "three", "absent")]
    text = complaint(sources.download_images, "tiny", [*mirrors, "http://127.0.0.1:1/"])
    assert text.startswith("tiny: ") and "data_dir" in text and DIGEST[:12] in text
    assert all(mirror in text for mirror in mirrors)
    assert list(tiny.iterdir()) == []


def test_loading_downloads_only_when_told_to_and_only_once(tiny, server, monkeypatch, tmp_path):
    address, serve, asked = server
    serve("good", GOOD)
    monkeypatch.setitem(sources.IMAGE_SETS, "tiny", sources.ImageSet(DIGEST, (f"{address}/good/",)))
    complaint(sources.load_images, "tiny")
    complaint(sources.load_images, "tiny", str(tmp_path / "empty"), download=True)
    assert not asked
    for _ in range(2):
        assert np.array_equal(sources.load_images("tiny", download=True), IMAGES)
    assert len(asked) == 1


def test_published_image_sets_name_a_checksum_and_a_mirror():
    for image_set in sources.IMAGE_SETS.values():
        assert len(bytes.fromhex(image_set.sha256)) == 32
        assert image_set.mirrors and all(mirror.endswith("/") for mirror in image_set.mirrors)


# Arrays of one's own

SAMPLES = normal(1, 6, 3)


def saved(tmp_path, name, *arrays, **named):
    path = tmp_path / name
    save = np.save if name.endswith(".npy") else np.savez
    save(path, *arrays, **named)
    return path


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8", "u1", "i8", "?"])
def test_arrays_come_as_stored(tmp_path, dtype):
    array = (SAMPLES > 0 if dtype == "?" else 10 * abs(SAMPLES)).astype(dtype)
    for path in (saved(tmp_path, "x.npy", array), saved(tmp_path, "x.npz", array), saved(tmp_path, "n.npz", any=array)):
        loaded = sources.load_array(path)
        assert np.array_equal(loaded, array) and loaded.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


def test_npy_is_not_read_before_it_is_used(tmp_path):
    assert isinstance(sources.load_array(saved(tmp_path, "x.npy", SAMPLES)), StoredSamples)


BAD_ARRAYS = {
    "objects": (np.array([[1, None], [2, 3]], dtype=object), "not a readable"),
    "strings": (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
    "complex": (SAMPLES * 1j, "real numbers"),
    "dates": (np.zeros((3, 3), "M8[s]"), "real numbers"),
    "one axis": (SAMPLES[0], "at least 2 samples"),
    "a number": (np.float64(3), "at least 2 samples"),
    "one sample": (SAMPLES[:1], "at least 2 samples"),
    "one input": (SAMPLES[:, :1], "at least 2 numbers"),
    "nothing": (SAMPLES[:0], "at least 2 samples"),
}


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize(("array", "reason"), BAD_ARRAYS.values(), ids=list(BAD_ARRAYS))
def test_arrays_that_are_not_samples_are_refused(tmp_path, name, array, reason):
    path = saved(tmp_path, name, array)
    text = complaint(sources.load_array, path)
    assert text.startswith(f"{path}: ") and reason in text


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("cut", [0, 4, 60, -1], ids=["empty", "magic", "header", "end"])
def test_cut_files_are_refused(tmp_path, name, cut):
    path = saved(tmp_path, name, SAMPLES)
    path.write_bytes(path.read_bytes()[:cut])
    assert complaint(sources.load_array, path).startswith(f"{path}: not a readable")
    assert complaint(sources.load_arrays, path, ["arr_0"]).startswith(f"{path}: not a readable")


def test_a_flipped_byte_in_npz_is_noticed(tmp_path):
    path = saved(tmp_path, "x.npz", SAMPLES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert complaint(sources.load_array, path).startswith(f"{path}: not a readable")


@pytest.mark.parametrize("name", ["none.npy", "none.npz"])
def test_missing_files_are_named(tmp_path, name):
    assert complaint(sources.load_array, tmp_path / name).startswith(f"{tmp_path / name}: ")
    assert complaint(sources.load_arrays, tmp_path / name, ["a"]).startswith(f"{tmp_path / name}: ")
    (tmp_path / name).mkdir()
    assert complaint(sources.load_array, tmp_path / name).startswith(f"{tmp_path / name}: ")


def test_npz_of_several_arrays_is_refused_by_their_names(tmp_path):
    text = complaint(sources.load_array, saved(tmp_path, "x.npz", train=SAMPLES, test=SAMPLES))
    assert "train, test" in text and "exactly one" in text
    assert "none" in complaint(sources.load_array, saved(tmp_path, "e.npz"))


def test_named_arrays(tmp_path):
    path = saved(tmp_path, "x.npz", a=SAMPLES, b=SAMPLES.T, c=SAMPLES[0])
    loaded = sources.load_arrays(path, ["b", "a"])
    assert list(loaded) == ["b", "a"] and np.array_equal(loaded["b"], SAMPLES.T)
    text = complaint(sources.load_arrays, path, ["a", "encoder"])
    assert text.startswith(f"{path}: ") and "'encoder'" in text
    assert complaint(sources.load_arrays, saved(tmp_path, "x.npy", SAMPLES), ["a"]).startswith(str(tmp_path / "x.npy"))
    objects = saved(tmp_path, "o.npz", a=np.array([None, 1], dtype=object))
    assert complaint(sources.load_arrays, objects, ["a"]).startswith(f"{objects}: not a readable")


def test_what_an_interrupted_download_left_is_not_taken_for_the_file(tiny, server):
    address, serve, asked = server
    serve("good", GOOD)
    put(tiny / f"{FILENAME}.gz.part", b"half")
    sources.download_images("tiny", [f"{address}/good/"])
    assert len(asked) == 1


def test_a_garbled_npy_header_is_refused(tmp_path):
    path = saved(tmp_path, "x.npy", SAMPLES)
    path.write_bytes(path.read_bytes().replace(b")", b"(", 1))
    assert complaint(sources.load_array, path).startswith(f"{path}: not a readable")


@pytest.mark.parametrize("offset", [6, 8], ids=["encrypted", "compression"])
def test_a_garbled_zip_entry_is_refused(tmp_path, offset):
    path = saved(tmp_path, "x.npz", SAMPLES)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset + 2] |= 0x41  # the flags or the method in the directory
    path.write_bytes(content)
    assert complaint(sources.load_array, path).startswith(f"{path}: not a readable")
    assert complaint(sources.load_arrays, path, ["arr_0"]).startswith(f"{path}: not a readable")
