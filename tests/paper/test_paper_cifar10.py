"""CIFAR-10: official files only, unpickled after their hash matched; normalised, whitened."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

import ravine
from ravine.paper import data
from ravine.paper.whitening import contrast_normalised, whitened, whitening

WIDTH = 12


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A data set in CIFAR-10's format and name: 5 × 8 + 6 images of 12 numbers, archive too."""
    monkeypatch.delenv("RAVINE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    official = data.SOURCES["cifar10"]
    folder = tmp_path / "official" / official.folder
    folder.mkdir(parents=True)
    batches = {}
    for name in official.files:
        count = 6 if name == "test_batch" else 8
        images = random.integers(0, 256, (count, WIDTH)).astype(np.uint8)
        batches[name] = (images, random.integers(0, 10, count).tolist())
        content = pickle.dumps({b"data": images, b"labels": batches[name][1]})
        (folder / name).write_bytes(content)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in batches}
    archive = tmp_path / "mirror" / "tiny.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, official.folder)
    known = (archive.name, hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(
        data.SOURCES, "cifar10", data.Source("tiny", files, (), official.folder, known)
    )
    return folder, batches, archive


@pytest.fixture
def mirror(tiny, monkeypatch):
    """A web server with the archive."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tiny[2].parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    known = data.SOURCES["cifar10"]
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setitem(
        data.SOURCES,
        "cifar10",
        data.Source("tiny", known.files, (address,), known.folder, known.archive),
    )
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def expected(batches) -> tuple[np.ndarray, np.ndarray]:
    """Both parts by another route: numpy, float64, an inverse square root by singular values."""
    train = np.concatenate(
        [images for name, (images, _) in batches.items() if name != "test_batch"]
    ).astype(float)
    parts = []
    for images in (train, batches["test_batch"][0].astype(float)):
        centred = images - images.mean(1, keepdims=True)
        parts.append(55 * centred / np.sqrt((centred**2).sum(1, keepdims=True)))
    mean = parts[0].mean(0)
    covariance = (parts[0] - mean).T @ (parts[0] - mean) / len(parts[0]) + 0.1 * np.eye(WIDTH)
    u, values, _ = np.linalg.svd(covariance)
    root = u @ np.diag(values**-0.5) @ u.T
    return (parts[0] - mean) @ root, (parts[1] - mean) @ root


def same(found: data.Splits, batches) -> bool:
    train, test = expected(batches)
    labels = [
        label for name, (_, some) in batches.items() if name != "test_batch" for label in some
    ]
    return (
        np.allclose(found["train"][0].numpy(), train, atol=1e-4)
        and np.allclose(found["test"][0].numpy(), test, atol=1e-4)
        and found["train"][1].tolist() == labels
        and found["test"][1].tolist() == batches["test_batch"][1]
    )


def test_the_official_files_are_read(tiny, monkeypatch):
    folder, batches, _ = tiny
    assert same(data.load("cifar10", folder.parent), batches)
    monkeypatch.setenv("RAVINE_DATA", str(folder.parent))
    found = data.load("cifar10")
    assert same(found, batches)
    assert (found["train"][0].dtype, found["train"][1].dtype) == (torch.float32, torch.int64)


def test_the_archive_is_fetched_unpacked_and_removed(mirror, tiny):
    _, batches, archive = tiny
    assert data.locate("cifar10") is None
    assert same(data.load("cifar10"), batches)
    place = data.cache() / "cifar-10-batches-py"
    assert {path.name for path in place.iterdir()} == set(batches)
    archive.unlink()
    assert data.fetch("cifar10") == place  # what is there is only checked
    assert same(data.load("cifar10"), batches)


def test_another_archive_is_not_unpacked(mirror, tiny):
    tiny[2].write_bytes(b"an error page")
    with pytest.raises(
        ravine.InputError, match=r"tiny.tar.gz of cifar10 could not be fetched: .*another SHA-256"
    ):
        data.load("cifar10")


def test_an_archive_with_another_file_inside(mirror, tiny, monkeypatch):
    """The archive's hash is right, one file's is not: it does not get its name."""
    folder, _, archive = tiny
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(folder.iterdir()):
            content = b"other" if path.name == "test_batch" else path.read_bytes()
            about = tarfile.TarInfo(f"{folder.name}/{path.name}")
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    known = data.SOURCES["cifar10"]
    right = (archive.name, hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(
        data.SOURCES,
        "cifar10",
        data.Source("tiny", known.files, known.mirrors, known.folder, right),
    )
    with pytest.raises(ravine.InputError, match="test_batch' is damaged or another file"):
        data.load("cifar10")
    assert not (data.cache() / folder.name / "test_batch").exists()


class Bomb:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.exploded = True",))


def test_a_file_with_another_hash_is_never_unpickled(tiny):
    import builtins

    folder, _, _ = tiny
    content = pickle.dumps({b"data": Bomb(), b"labels": []})
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(ravine.InputError, match="data_batch_3' is damaged or another file"):
        data.load("cifar10", folder.parent)
    with pytest.raises(ravine.InputError, match="data_batch_3' is damaged or another file"):
        # also where it was swapped after the first look
        data._batch(folder / "data_batch_3", "0" * 64)
    assert not hasattr(builtins, "exploded")
    pickle.loads(content)  # the bomb is live
    assert builtins.exploded is True
    del builtins.exploded


def test_a_folder_without_the_files(tiny, tmp_path):
    with pytest.raises(
        ravine.InputError,
        match=r"lacks cifar-10-batches-py/data_batch_1 \(6 of 6 files are missing\)",
    ):
        data.load("cifar10", tmp_path)


def test_the_whitening_is_kept(tiny, monkeypatch):
    folder, batches, _ = tiny
    data.load("cifar10", folder.parent)
    (kept,) = data.cache().glob("cifar10-whitening-*.safetensors")

    def never(images):
        raise AssertionError

    monkeypatch.setattr(data, "whitening", never)
    assert same(data.load("cifar10", folder.parent), batches)
    whole = kept.read_bytes()
    for content in (whole[:-1], b"", whole[:-4] + bytes(4), None):  # damaged, it is made anew
        kept.unlink() if content is None else kept.write_bytes(content)
        with pytest.raises(AssertionError):
            data.load("cifar10", folder.parent)


def test_without_a_cache_it_is_only_slower(tiny, monkeypatch, tmp_path):
    folder, batches, _ = tiny
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(data.load("cifar10", folder.parent), batches)


class TestWhitening:
    def images(self, count: int = 900) -> torch.Tensor:
        """Correlated images, with directions that hardly vary."""
        random = np.random.default_rng(3)
        mixing = random.normal(size=(20, 20)) @ np.diag(np.geomspace(30, 0.01, 20))
        return torch.from_numpy(random.normal(size=(count, 20)) @ mixing + 100).to(torch.float32)

    def test_contrast(self):
        found = contrast_normalised(self.images())
        assert float(found.mean(1).abs().max()) < 1e-4
        torch.testing.assert_close(found.norm(dim=1), torch.full((900,), 55.0))

    def test_it_is_white_where_there_is_variance(self):
        """The covariance becomes C (C + 0.1)⁻¹: 1 where C is large, almost 0 far below 0.1."""
        images = contrast_normalised(self.images())
        before = np.cov(images.double().numpy().T, bias=True)
        found = whitened(images.clone(), *whitening(images)).double().numpy()
        after = np.cov(found.T, bias=True)
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(
            after, before @ np.linalg.inv(before + 0.1 * np.eye(20)), atol=1e-4
        )
        variances = np.linalg.eigvalsh(before)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(after), variances / (variances + 0.1), atol=1e-4
        )
        assert variances[0] < 1e-6  # contrast took one direction away
        assert variances[-5] > 10  # and these are white to a hundredth

    def test_its_matrix_is_symmetric_and_positive(self):
        _, matrix = whitening(self.images())
        torch.testing.assert_close(matrix, matrix.T)
        assert float(torch.linalg.eigvalsh(matrix.double())[0]) > 0

    def test_the_test_part_has_no_say(self, tiny):
        folder, batches, _ = tiny
        one = data.load("cifar10", folder.parent)["train"][0]
        images, labels = batches["test_batch"]
        content = pickle.dumps({b"data": 255 - images, b"labels": labels})
        (folder / "test_batch").write_bytes(content)
        data.SOURCES["cifar10"].files["test_batch"] = hashlib.sha256(content).hexdigest()
        assert torch.equal(data.load("cifar10", folder.parent)["train"][0], one)


class TestArrays:
    @pytest.fixture
    def packed(self, tiny, tmp_path, monkeypatch):
        """The same images and labels as a NumPy archive, in a folder without the official files."""
        _, batches, _ = tiny
        test = batches["test_batch"]
        rest = [batch for name, batch in batches.items() if name != "test_batch"]
        images = np.concatenate([batch[0] for batch in rest])
        labels = np.concatenate([batch[1] for batch in rest]).astype(np.uint8)
        test_labels = np.array(test[1], np.uint8)
        content = images.tobytes() + test[0].tobytes() + labels.tobytes() + test_labels.tobytes()
        known = data.SOURCES["cifar10"]
        arrays = ("tiny.npz", hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(data.SOURCES, "cifar10", replace(known, arrays=arrays))
        folder = tmp_path / "packed" / known.folder
        folder.mkdir(parents=True)
        np.savez(
            folder / "tiny.npz",
            train_images=images,
            train_labels=labels,
            test_images=test[0],
            test_labels=test_labels,
        )
        return folder

    def test_they_give_the_tensors_of_the_official_files(self, tiny, packed):
        official = data.load("cifar10", tiny[0].parent)
        again = data.load("cifar10", packed.parent)
        for split, (images, labels) in official.items():
            assert torch.equal(again[split][0], images)
            assert torch.equal(again[split][1], labels)
            assert again[split][1].dtype == labels.dtype

    def test_images_need_not_be_rows(self, tiny, packed):
        with np.load(packed / "tiny.npz") as held:
            arrays = dict(held)
        for name in ("train_images", "test_images"):
            arrays[name] = arrays[name].reshape(len(arrays[name]), 3, -1, 4)
        np.savez(packed / "tiny.npz", **arrays)
        official = data.load("cifar10", tiny[0].parent)
        again = data.load("cifar10", packed.parent)
        assert all(torch.equal(again[split][0], official[split][0]) for split in official)

    def test_other_content_is_refused(self, packed):
        with np.load(packed / "tiny.npz") as held:
            arrays = dict(held)
        arrays["train_labels"] = arrays["train_labels"][::-1]
        np.savez(packed / "tiny.npz", **arrays)
        with pytest.raises(ravine.InputError, match="damaged or another file"):
            data.load("cifar10", packed.parent)
        (packed / "tiny.npz").write_bytes(b"no archive")
        with pytest.raises(ravine.InputError, match="no archive of CIFAR-10"):
            data.load("cifar10", packed.parent)
