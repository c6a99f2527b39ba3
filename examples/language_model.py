"""A decoder built from a config, trained by Hugging Face's Trainer, and its line in nats per token.

On words of the Penn Treebank where RAVINE_DATA names a folder with ptb.train.txt (in it, or in a
folder ptb of it), else on bytes of Python's own library. Needs the extra `transformers`; downloads
nothing.
"""

import argparse
import ast
import os
import tarfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import ravine
from ravine.integrations.transformers import TrainerRecorder

CONTEXT = 64


def penn_treebank(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Word ids of the three parts, and how many words there are."""
    words = {
        part: (folder / f"ptb.{part}.txt").read_text().replace("\n", "<eos>").split()
        for part in PARTS
    }
    number = {word: n for n, word in enumerate(sorted(set(words["train"])))}
    return {part: torch.tensor([number[word] for word in words[part]]) for part in PARTS}, len(
        number
    )


def library() -> tuple[dict[str, torch.Tensor], int]:
    """Bytes of three modules of Python's library."""
    modules = dict(zip(PARTS, (argparse, tarfile, ast), strict=True))
    texts = {
        part: Path(str(module.__file__)).read_bytes()[:60_000] for part, module in modules.items()
    }
    return {part: torch.tensor(list(text)) for part, text in texts.items()}, 256


PARTS = ("train", "valid", "test")
home = Path(os.environ.get("RAVINE_DATA", "nowhere"))
found = [folder for folder in (home, home / "ptb") if (folder / "ptb.train.txt").is_file()]
tokens, vocabulary = penn_treebank(found[0]) if found else library()

set_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
    )
)
inputs, targets = ravine.contexts(tokens["train"], CONTEXT)
Trainer(
    model,
    TrainingArguments(
        output_dir="out/language-model/trainer",
        max_steps=1_500 if found else 300,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    ),
    train_dataset=[
        {"input_ids": row, "labels": row} for row in inputs[:-1]
    ],  # the last context is padded
    callbacks=[TrainerRecorder("out/language-model/run", per_decade=8)],
).train()

run = ravine.Trajectory.open("out/language-model/run")
size = 20_000 if found else 6_000
sets = {part: ravine.contexts(tokens[part][:size], CONTEXT) for part in PARTS}
J = ravine.Objective(model, ravine.causal_lm(), sets)
line = ravine.Line(run[0], run[-1])
curve = ravine.resolve(J, along=line, tolerance=3e-3, title="a small decoder")
path = ravine.project(run, onto=line, objective=J)
print(ravine.metrics.verdict(curve))
print(ravine.metrics.verdict(path))
print(ravine.write_report("out/language-model", curve, path))
