"""Recorders in the real frameworks: steps are updates, one process writes, resumed runs go on."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ravine
from oracles import blobs, mlp
from ravine import InputError, Trajectory

# of the frameworks about themselves and each other
pytestmark = pytest.mark.filterwarnings("ignore")

DATA = blobs(200)
BATCH = 25  # 8 batches an epoch


class TestLightning:
    @pytest.fixture(autouse=True)
    def _framework(self):
        pytest.importorskip("lightning")

    @staticmethod
    def module():
        from lightning.pytorch import LightningModule

        class Classifier(LightningModule):
            def __init__(self):
                super().__init__()
                self.model = mlp()

            def training_step(self, batch):
                return F.cross_entropy(self.model(batch[0]), batch[1])

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.05)

        return Classifier()

    @staticmethod
    def fit(folder, recorder, *, module=None, epochs=2, resume=None, **options):
        from lightning.pytorch import Trainer

        trainer = Trainer(
            max_epochs=epochs,
            callbacks=[recorder],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            **options,
        )
        module = TestLightning.module() if module is None else module
        loader = DataLoader(TensorDataset(*DATA), batch_size=BATCH)
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
        return trainer, module

    def test_epochs_by_default_and_the_last_is_the_trained_model(self, tmp_path):
        from ravine.integrations.lightning import LightningRecorder

        _, module = self.fit(tmp_path, LightningRecorder(tmp_path / "run"))
        run = Trajectory.open(tmp_path / "run")
        assert run.steps == (0, 8, 16)
        for name, tensor in module.state_dict().items():
            assert torch.equal(run.at(16)[name], tensor)
        assert not torch.equal(run.at(0)["model.0.weight"], run.at(16)["model.0.weight"])

    def test_steps_are_updates_however_gradients_are_gathered(self, tmp_path):
        from ravine.integrations.lightning import LightningRecorder

        self.fit(tmp_path, LightningRecorder(tmp_path / "run", every=1), accumulate_grad_batches=4)
        assert Trajectory.open(tmp_path / "run").steps == (0, 1, 2, 3, 4)

    def test_a_resumed_run_goes_on_where_it_went_back_to(self, tmp_path):
        from ravine.integrations.lightning import LightningRecorder

        trainer, module = self.fit(tmp_path, LightningRecorder(tmp_path / "run", every=2), epochs=1)
        trainer.save_checkpoint(tmp_path / "kept.ckpt")
        self.fit(
            tmp_path,
            LightningRecorder(tmp_path / "run", every=2),
            epochs=2,
            resume=tmp_path / "kept.ckpt",
        )
        whole = Trajectory.open(tmp_path / "run")
        assert whole.steps == (0, 2, 4, 6, 8, 10, 12, 14, 16)
        self.fit(
            tmp_path,
            LightningRecorder(tmp_path / "run", every=2),
            epochs=2,
            resume=tmp_path / "kept.ckpt",
        )
        assert Trajectory.open(tmp_path / "run").snapshots == whole.snapshots  # the same bits again
        assert torch.equal(whole.at(8)["model.0.weight"], module.state_dict()["model.0.weight"])

    def test_a_new_run_does_not_overwrite_another(self, tmp_path):
        from ravine.integrations.lightning import LightningRecorder

        self.fit(tmp_path, LightningRecorder(tmp_path / "run"), epochs=1)
        with pytest.raises(
            InputError, match="holds a run up to step 8, and this training starts anew"
        ):
            self.fit(tmp_path, LightningRecorder(tmp_path / "run"), epochs=1)
        assert Trajectory.open(tmp_path / "run").steps == (0, 8)

    def test_its_own_checkpoints_are_a_run(self, tmp_path):
        from lightning.pytorch.callbacks import ModelCheckpoint

        from ravine.integrations.lightning import LightningRecorder

        keep = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_epochs=1)
        from lightning.pytorch import Trainer

        trainer = Trainer(
            max_epochs=3,
            callbacks=[keep, LightningRecorder(tmp_path / "run")],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module(), DataLoader(TensorDataset(*DATA), batch_size=BATCH))
        folder, recorded = (
            Trajectory.open(tmp_path / "checkpoints"),
            Trajectory.open(tmp_path / "run"),
        )
        assert folder.steps == recorded.steps[1:] == (8, 16, 24)
        for step in folder.steps:
            assert torch.equal(
                folder.at(step)["model.0.weight"], recorded.at(step)["model.0.weight"]
            )
        # the bare model: without "model."
        J = ravine.Objective(mlp(), ravine.supervised(F.cross_entropy), DATA)
        assert J(folder[-1])["data"] < J(recorded[0])["data"]


def tiny_lm(seed: int = 0, vocabulary: int = 40):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config)


class TestTrainer:
    @staticmethod
    def train(folder, recorder, *, model=None, resume=None, epochs=2, **options):
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
        ids = torch.randint(3, 40, (32, 12), generator=torch.Generator().manual_seed(0))
        data = [{"input_ids": row, "labels": row} for row in ids]
        settings = {
            "output_dir": str(folder / "out"),
            "num_train_epochs": epochs,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "save_strategy": "no",
            "logging_strategy": "no",
            "seed": 0,
        }
        args = transformers.TrainingArguments(**(settings | options))
        trainer = transformers.Trainer(
            tiny_lm() if model is None else model, args, train_dataset=data, callbacks=recorder
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def test_steps_are_updates_and_epochs_are_kept(self, tmp_path):
        pytest.importorskip("transformers")
        from ravine.integrations.transformers import TrainerRecorder

        trainer = self.train(
            tmp_path,
            [TrainerRecorder(tmp_path / "epochs"), TrainerRecorder(tmp_path / "steps", every=1)],
            gradient_accumulation_steps=2,
        )
        assert Trajectory.open(tmp_path / "epochs").steps == (0, 4, 8)
        assert Trajectory.open(tmp_path / "steps").steps == tuple(range(9))
        own = trainer.model.state_dict()
        for name, tensor in Trajectory.open(tmp_path / "steps").at(8).items():
            assert torch.equal(own[name], tensor)

    def test_its_checkpoint_folders_are_a_run_and_resuming_goes_on(self, tmp_path):
        pytest.importorskip("transformers")
        from ravine.integrations.transformers import TrainerRecorder

        self.train(
            tmp_path,
            [TrainerRecorder(tmp_path / "run", every=4)],
            save_strategy="steps",
            save_steps=4,
        )
        folder, recorded = Trajectory.open(tmp_path / "out"), Trajectory.open(tmp_path / "run")
        assert recorded.steps == (0, 4, 8, 12, 16)
        assert folder.steps == (4, 8, 12, 16)
        for step in folder.steps:
            for name, tensor in folder.at(step).items():
                assert torch.equal(tensor, recorded.at(step)[name])
        before = recorded.snapshots
        again = [TrainerRecorder(tmp_path / "run", every=4)]
        self.train(tmp_path, again, resume=str(tmp_path / "out" / "checkpoint-8"))
        assert Trajectory.open(tmp_path / "run").steps == recorded.steps
        assert Trajectory.open(tmp_path / "run").snapshots[:3] == before[:3]

    def test_a_truncated_shard_is_named(self, tmp_path):
        model = tiny_lm()
        for step in (1, 2):
            model.save_pretrained(tmp_path / f"checkpoint-{step}", max_shard_size="4KB")
        shards = sorted((tmp_path / "checkpoint-2").glob("*.safetensors"))
        assert len(shards) > 1
        run = Trajectory.open(tmp_path)
        torch.testing.assert_close(run.at(1)["model.norm.weight"], model.model.norm.weight.detach())
        shards[1].write_bytes(shards[1].read_bytes()[:-20])
        with pytest.raises(
            InputError, match=f"{shards[1].name}' is not a complete safetensors file"
        ):
            run.at(2)

    def test_a_vocabulary_that_grew_is_named(self, tmp_path):
        for step, size in ((1, 40), (2, 44)):
            tiny_lm(vocabulary=size).save_pretrained(tmp_path / f"checkpoint-{step}")
        with pytest.raises(
            InputError, match=r"shape at 'model.embed_tokens.weight': \(40, 16\) and \(44, 16\)"
        ):
            Trajectory.open(tmp_path)[1]


class TestAdapters:
    """Against peft's own merging."""

    @staticmethod
    def adapted(folder, model=None, seed=1, **options):
        peft = pytest.importorskip("peft")
        model = tiny_lm() if model is None else model
        settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(model, peft.LoraConfig(**(settings | options)))
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.1)
        wrapped.save_pretrained(folder)
        return wrapped

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"use_rslora": True},
            {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 9}},
            {"target_modules": ["embed_tokens", "v_proj"]},
            {"modules_to_save": ["norm"]},
            {"use_dora": True},
            {"init_lora_weights": "pissa"},
            {"init_lora_weights": "olora"},
            {"layers_to_transform": [1]},
            {"trainable_token_indices": [1, 2]},
            {"target_parameters": ["self_attn.v_proj.weight"]},
        ],
        ids=lambda options: next(iter(options), "plain"),
    )
    def test_the_end_is_what_peft_merges(self, tmp_path, options):
        base = tiny_lm()  # its embedding and its head are one tensor
        merged = self.adapted(tmp_path, **options).merge_and_unload().state_dict()
        line = ravine.Line(base, tmp_path)
        for name, tensor in line.at(1.0).items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-7)
        same = [
            name for name in line.start.params if line.end.tensors[name] is line.start.tensors[name]
        ]
        assert "model.layers.0.mlp.up_proj.weight" in same  # only what the adapter changes moves
        half = line.at(0.5)["model.layers.0.mlp.up_proj.weight"]
        assert torch.equal(half, base.state_dict()["model.layers.0.mlp.up_proj.weight"])

    @pytest.mark.parametrize("prefix", ["", "module.", "model."])
    @pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["plain", "dora"])
    def test_a_base_in_bfloat16_and_under_another_prefix(self, tmp_path, prefix, options):
        narrow = tiny_lm().bfloat16()
        merged = self.adapted(tmp_path, copy.deepcopy(narrow).float(), **options)
        merged = merged.merge_and_unload().state_dict()
        base = {prefix + name: tensor for name, tensor in narrow.state_dict().items()}
        before = {name: tensor.clone() for name, tensor in base.items()}
        found = ravine.Line(base, tmp_path).at(1.0)
        for name, tensor in found.items():
            torch.testing.assert_close(
                tensor.float(), merged[name.removeprefix(prefix)], rtol=1e-6, atol=1e-7
            )
        assert all(torch.equal(base[name], before[name]) for name in base)

    def test_convolutions_and_conv1d(self, tmp_path):
        pytest.importorskip("peft")
        from transformers.pytorch_utils import Conv1D

        class Small(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)
                self.dense = Conv1D(5, 7)  # a Linear with its weight transposed, as in GPT-2

            def forward(self, x):
                return self.conv(x)

        model = Small()
        base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for target, extra in (("conv", {}), ("dense", {"fan_in_fan_out": True})):
            wrapped = self.adapted(tmp_path / target, Small(), target_modules=[target], **extra)
            inner = wrapped.base_model.model
            with torch.no_grad():
                for name, parameter in inner.named_parameters():
                    if "base_layer" in name:
                        parameter.copy_(base[name.replace("base_layer.", "")])
            merged = wrapped.merge_and_unload().state_dict()
            end = ravine.Line(base, tmp_path / target).at(1.0)
            torch.testing.assert_close(
                end[f"{target}.weight"], merged[f"{target}.weight"], rtol=1e-6, atol=1e-6
            )

    def test_adapters_of_a_run_lie_on_lines_from_the_base(self, tmp_path):
        base = {name: tensor.clone() for name, tensor in tiny_lm().state_dict().items()}
        for step, seed in ((10, 1), (20, 2)):
            self.adapted(tmp_path / f"checkpoint-{step}", seed=seed)
        run = Trajectory.open(tmp_path)
        path = ravine.project(run, ravine.Line(base, run[-1]))
        assert float(path["alpha"][1]) == pytest.approx(1.0)
        assert float(path["residual"][1]) == pytest.approx(0.0, abs=1e-5)
        assert float(path["residual"][0]) > 0.1
        with pytest.raises(InputError, match="is an adapter, a change to a base model"):
            ravine.Line(run[0], run[1])

    def test_an_adapter_of_another_model_is_refused(self, tmp_path):
        self.adapted(tmp_path / "lora")
        with pytest.raises(
            InputError,
            match="has no such parameter: is it the model that the adapter was trained on",
        ):
            ravine.Line(mlp(), tmp_path / "lora")
        wide = {
            name: torch.zeros(2 * len(t), *t.shape[1:])
            for name, t in tiny_lm().state_dict().items()
        }
        with pytest.raises(
            InputError, match=r"by a tensor of shape \(16, .*\), and in a state dict it has \(32, "
        ):
            ravine.Line(wide, tmp_path / "lora")

    def test_what_cannot_be_merged_is_refused_by_name(self, tmp_path, monkeypatch):
        self.adapted(tmp_path, use_dora=True)
        with monkeypatch.context() as here:
            here.setattr("importlib.util.find_spec", lambda _: None)
            with pytest.raises(InputError, match="use_dora = True, not plain LoRA; only peft can"):
                ravine.Line(tiny_lm(), tmp_path)
        self.adapted(tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        for changes, said in (
            ({"peft_type": "IA3"}, "an adapter of type IA3"),
            ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
            ({"init_lora_weights": "pissa_niter_4"}, "drawn at random"),
            ({"init_lora_weights": "corda"}, "data that are not with it"),
            ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens = .*aLoRA"),
            ({"layer_replication": [[0, 2]]}, "other layers than the base"),
            ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow = 1.*does not know"),
        ):
            (tmp_path / "adapter_config.json").write_text(json.dumps(config | changes))
            with pytest.raises(InputError, match=said):
                ravine.Line(tiny_lm(), tmp_path)
        (tmp_path / "adapter_config.json").write_text("{")
        with pytest.raises(InputError, match="is not an adapter's configuration"):
            ravine.Line(tiny_lm(), tmp_path)

    def test_an_adapter_that_unties_is_refused(self, tmp_path):
        self.adapted(tmp_path, modules_to_save=["lm_head"])
        with pytest.raises(
            InputError, match=r"own 'lm_head.weight' \(modules_to_save\), which is tied"
        ):
            ravine.Line(tiny_lm(), tmp_path)


class TestLanguageModels:
    def test_tokens_are_weighted_and_padding_is_none(self):
        model = tiny_lm().eval()
        ids = torch.randint(3, 40, (5, 9), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        for row, length in enumerate((9, 3, 6, 9, 2)):
            mask[row, length:] = 0
        ids[mask == 0] = 0
        with torch.no_grad():
            alone = [
                F.cross_entropy(
                    model(row[None, : int(m.sum())]).logits[0, :-1],
                    row[1 : int(m.sum())],
                    reduction="sum",
                )
                for row, m in zip(ids, mask, strict=True)
            ]
        expected = float(torch.stack(alone).sum() / (mask.sum() - 5))
        batches = [
            {"input_ids": i, "attention_mask": m}
            for i, m in zip(ids.split(2), mask.split(2), strict=True)
        ]
        assert ravine.Objective(model, ravine.causal_lm(), batches)(model)["data"] == pytest.approx(
            expected, rel=1e-5
        )
        bare = ravine.Objective(model, ravine.causal_lm(pad=0), (ids,), batch_size=3)
        assert bare(model)["data"] == pytest.approx(expected, rel=1e-5)
        labels = [
            {**b, "labels": b["input_ids"].masked_fill(b["attention_mask"] == 0, -100)}
            for b in batches
        ]
        assert ravine.Objective(model, ravine.causal_lm(), labels)(model)["data"] == pytest.approx(
            expected, rel=1e-5
        )

    def test_every_token_but_the_first_is_predicted_once(self):
        text = torch.arange(3, 40)
        inputs, targets = ravine.contexts(text, 8)
        assert inputs.shape == targets.shape == (5, 8)
        assert targets[targets != -100].tolist() == text[1:].tolist()
        assert inputs[targets != -100].tolist() == text[:-1].tolist()

    def test_several_texts_and_their_perplexity(self):
        model, trained = tiny_lm(), tiny_lm(1)
        texts = {
            name: ravine.contexts(
                torch.randint(3, 40, (100,), generator=torch.Generator().manual_seed(s)), 16
            )
            for s, name in enumerate(("wiki", "code"))
        }
        J = ravine.Objective(model, ravine.causal_lm(), texts, dtype=torch.float64)
        curve = ravine.evaluate(J, along=ravine.Line(model, trained), at=[0, 0.5, 1])
        assert curve["loss"].attrs["units"] == "nats per token"
        assert list(curve["n_examples"].values) == [99, 99]
        start = float(torch.exp(torch.tensor(curve["loss"].sel(split="wiki", alpha=0).item())))
        assert f"Perplexity: wiki from {start:.0f}"[:20] in str(ravine.metrics.verdict(curve))

    def test_bad_text_is_one_clear_error(self):
        with pytest.raises(
            InputError, match="the text has 5 tokens and a context 8, which takes 9 to fill"
        ):
            ravine.contexts([1, 2, 3, 4, 5], 8)
        with pytest.raises(InputError, match="ids, whole numbers; got torch.float32"):
            ravine.contexts(torch.rand(9), 2)
        J = ravine.Objective(tiny_lm(), ravine.causal_lm(), ravine.contexts([5, 6, 41, 7], 2))
        with pytest.raises(
            InputError, match="the text has the token 41, and the model knows 40 tokens"
        ):
            J(tiny_lm())
        J = ravine.Objective(mlp(), ravine.causal_lm(), (torch.rand(3, 6),))
        with pytest.raises(InputError, match=r"causal_lm\(\) reads a dict"):
            J(mlp())


DISTRIBUTED = """
import sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn
import ravine

def work(rank, folder, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = ravine.TrajectoryRecorder(folder)
    recorder.record(0, model)
    for step in range(1, 4):
        optimiser.zero_grad()
        batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank))
        model(batch).square().sum().backward()
        optimiser.step()
        recorder.record(step, model)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1], sys.argv[2]), nprocs=2)
"""


def test_two_processes_record_once(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    subprocess.run(
        [sys.executable, script, tmp_path / "run", tmp_path / "store"], check=True, timeout=300
    )
    run = Trajectory.open(tmp_path / "run")
    assert run.steps == (0, 1, 2, 3)
    assert sorted(run[0].tensors) == ["bias", "weight"]  # without DDP's prefix
    assert len(list((tmp_path / "run").iterdir())) == 5


def test_gaps_are_told():
    snapshots = [
        ravine.points.trajectory.Snapshot(step, f"{step}.pt") for step in (0, 100, 200, 400, 500)
    ]
    assert Trajectory(None, snapshots).gaps == ((200, 400),)
    uneven = [ravine.points.trajectory.Snapshot(step, f"{step}.pt") for step in (0, 1, 10, 100)]
    assert Trajectory(None, uneven).gaps == ()
