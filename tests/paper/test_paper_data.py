"""The paper's data: official files read bit by bit, checked by hash; nothing damaged is kept."""

from __future__ import annotations

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

import ravine
from ravine.paper import data


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(
        bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes(), mtime=0
    )


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A data set in MNIST's format under MNIST's name: 5 + 3 images of 2 × 3 pixels."""
    monkeypatch.delenv("RAVINE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 5), ("t10k", 3)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = random.integers(0, 256, (count, 2, 3))
        arrays[f"{part}-labels-idx1-ubyte.gz"] = random.integers(0, 10, count)
    folder = tmp_path / "official" / "mnist"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in arrays}
    monkeypatch.setitem(data.SOURCES, "mnist", data.Source("tiny", files, ()))
    return folder, arrays


@pytest.fixture
def mirror(tiny, monkeypatch):
    """A web server with the files, behind a mirror that does not answer."""
    folder, _ = tiny

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    addresses = ("http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setitem(
        data.SOURCES, "mnist", data.Source("tiny", data.SOURCES["mnist"].files, addresses)
    )
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def same(found: data.Splits, arrays: dict[str, np.ndarray]) -> bool:
    return all(
        torch.equal(
            found[split][0],
            torch.tensor(arrays[f"{part}-images-idx3-ubyte.gz"]).flatten(1).float() / 255,
        )
        and torch.equal(found[split][1], torch.tensor(arrays[f"{part}-labels-idx1-ubyte.gz"]))
        for split, part in (("train", "train"), ("test", "t10k"))
    )


def test_the_folder_named_is_read(tiny):
    folder, arrays = tiny
    found = data.load("mnist", folder.parent)
    assert same(found, arrays)
    assert found["train"][0].dtype == torch.float32
    assert found["train"][1].dtype == torch.int64


def test_the_environments_folder_is_read(tiny, monkeypatch):
    folder, arrays = tiny
    monkeypatch.setenv("RAVINE_DATA", str(folder.parent))
    assert same(data.load("mnist"), arrays)


def test_the_next_mirror_is_asked_and_the_cache_is_kept(mirror, tiny):
    _, arrays = tiny
    assert data.locate("mnist") is None
    assert same(data.load("mnist"), arrays)
    for file in mirror.iterdir():
        file.unlink()
    assert same(data.load("mnist"), arrays)
    assert data.locate("mnist") == data.cache() / "mnist"


def test_another_file_than_the_official_one_is_not_kept(mirror):
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"an error page")
    with pytest.raises(
        ravine.InputError,
        match=r"t10k-labels-idx1-ubyte.gz .* could not be fetched: .*another SHA-256",
    ):
        data.load("mnist")
    assert "t10k-labels-idx1-ubyte.gz" not in {
        path.name for path in (data.cache() / "mnist").iterdir()
    }


def test_a_damaged_cache_is_mended_by_fetch(mirror, tiny):
    _, arrays = tiny
    place = data.fetch("mnist")
    (place / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half")
    with pytest.raises(ravine.InputError, match="is damaged or another file"):
        data.load("mnist")
    data.fetch("mnist")
    assert same(data.load("mnist"), arrays)


def test_no_network_says_what_to_do(tiny, monkeypatch):
    files = data.SOURCES["mnist"].files
    monkeypatch.setitem(data.SOURCES, "mnist", data.Source("tiny", files, ("http://127.0.0.1:9/",)))
    with pytest.raises(
        ravine.InputError,
        match=r"no answer \(ConnectionError\).* say --data DIR, or set RAVINE_DATA=DIR",
    ):
        data.load("mnist")


def test_a_folder_without_the_files(tiny, tmp_path):
    with pytest.raises(
        ravine.InputError,
        match=r"lacks mnist/train-images-idx3-ubyte.gz \(4 of 4 files are missing\)",
    ):
        data.load("mnist", tmp_path)


def test_a_truncated_file_is_named(tiny):
    folder, _ = tiny
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        ravine.InputError, match=r"train-images-idx3-ubyte.gz' is damaged .* expected SHA-256"
    ):
        data.load("mnist", folder.parent)


def test_a_file_of_another_kind(tiny, monkeypatch):
    folder, _ = tiny
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros(4)))
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    monkeypatch.setitem(data.SOURCES, "mnist", data.Source("tiny", files, ()))
    with pytest.raises(ravine.InputError, match="no idx file of unsigned bytes with 3 dims"):
        data.load("mnist", folder.parent)


def test_an_unknown_name():
    with pytest.raises(
        ravine.InputError,
        match="there is no data set 'cifar'; there are mnist, ptb, cifar10, digits",
    ):
        data.load("cifar")
