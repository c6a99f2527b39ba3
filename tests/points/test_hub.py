"""Models of the Hub. The kind: a name instead of a path, and a network that may not be there.

Siblings tried: a branch, a tag and a commit; a file inside; a cache without the weights or with a
part of them; a path of the same name; no library, no network, a name that is none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ravine import Checkpoint, InputError

hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
errors = pytest.importorskip("huggingface_hub.errors")


def state(value=1.0):
    return {"w": torch.full((2,), value)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the Hub's layout, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)

    def keep(model, commit, refs=("main",)):
        place = tmp_path / "cache" / f"models--{model.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        for ref in refs:
            (place / "refs" / ref).write_text(commit)
        folder = place / "snapshots" / commit
        folder.mkdir(parents=True)
        return folder

    return keep


A, B = "a" * 40, "b" * 40


def value_of(source):
    return float(Checkpoint.read(source).tensors["w"][0])


def test_revisions_come_from_the_cache(cache):
    save_file(state(1.0), cache("org/model", A) / "model.safetensors")
    save_file(state(2.0), cache("org/model", B, ("v2",)) / "model.safetensors")
    assert value_of("hf:org/model") == 1.0
    assert value_of("hf:org/model@v2") == 2.0
    assert value_of(f"hf:org/model@{B}") == 2.0
    assert Checkpoint.read("hf:org/model@v2").label == "hf:org/model@v2"


def test_a_file_inside_and_a_state_dict_inside_that(cache):
    folder = cache("org/model", A)
    (folder / "runs").mkdir()
    torch.save({"model": state(1.0), "ema": state(2.0)}, folder / "runs" / "last.pt")
    assert value_of("hf:org/model/runs/last.pt@main::ema") == 2.0


def test_a_path_of_that_name_wins(cache, tmp_path):
    save_file(state(1.0), cache("org/model", A) / "model.safetensors")
    (tmp_path / "hf:org").mkdir()
    torch.save(state(3.0), tmp_path / "hf:org" / "model")
    assert value_of("hf:org/model") == 3.0


@pytest.mark.parametrize(
    "held", [[], ["config.json"], ["model.safetensors.index.json", "model-1.safetensors"]]
)
def test_an_incomplete_cache_is_no_model(cache, held):
    folder = cache("org/model", A)
    for name in held:
        (folder / name).write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))
    with pytest.raises(
        InputError, match="not in the cache, and HF_HUB_OFFLINE forbids the network"
    ):
        Checkpoint.read("hf:org/model")


@pytest.mark.parametrize("name", ["hf:", "hf:model", "hf:../model", "hf:/org/model", "hf:@main"])
def test_a_name_that_is_none(cache, name):
    with pytest.raises(InputError, match="names no model of the Hub"):
        Checkpoint.read(name)


class TestWithANetwork:
    @pytest.fixture
    def network(self, cache, monkeypatch, tmp_path):
        """A network of one model, and what was asked of it."""
        asked = []
        files = {}

        def listed(repository, revision):
            if repository != "org/model":
                raise errors.RepositoryNotFoundError("no such model", response=None)
            return [*files, "README.md", "optimizer.pt"]

        def download(repository, revision, local_files_only=False, allow_patterns=None):
            if local_files_only:
                raise errors.LocalEntryNotFoundError("nothing here")
            asked.append((repository, revision, allow_patterns))
            for name, write in files.items():
                if any(Path(name).match(pattern) for pattern in allow_patterns):
                    write(tmp_path / "fetched" / name)
            return str(tmp_path / "fetched")

        (tmp_path / "fetched").mkdir()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub, "list_repo_files", listed)
        monkeypatch.setattr(hub, "snapshot_download", download)
        return files, asked

    def test_only_the_weights_are_fetched(self, network):
        files, asked = network
        files["pytorch_model.bin"] = lambda path: torch.save(state(9.0), path)
        files["model.safetensors"] = lambda path: save_file(state(2.0), path)
        assert value_of("hf:org/model@v1") == 2.0
        assert asked == [("org/model", "v1", ["model.safetensors"])]

    def test_a_model_without_usual_weights_is_refused_with_its_files(self, network):
        files, asked = network
        files["model.gguf"] = None
        with pytest.raises(
            InputError, match=r"no weights under the usual names; there are model\.gguf"
        ):
            Checkpoint.read("hf:org/model")
        assert not asked

    def test_what_the_hub_says_is_passed_on(self, network, monkeypatch):
        monkeypatch.setattr(
            hub, "list_repo_files", lambda *_, **__: (_ for _ in ()).throw(OSError("no route"))
        )
        with pytest.raises(
            InputError, match="could not be fetched from the Hugging Face Hub: no route"
        ):
            Checkpoint.read("hf:org/other")

    def test_offline_means_no_network(self, network, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(
            hub, "list_repo_files", lambda *_, **__: pytest.fail("the network was asked")
        )
        with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids"):
            Checkpoint.read("hf:org/model")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'ravine\[hub\]'"):
        Checkpoint.read("hf:org/model")
