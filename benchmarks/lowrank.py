"""What a LoRA line could gain if no weight were copied: x W + alpha (x A) B, or W at each point.

    python benchmarks/lowrank.py [--width 256] [--layers 4] [--rounds 5]

GPT-2 from a config, random, with rank 8 on every linear layer (which transformers keeps as
``Conv1D``), five points, one thread. Four routes to the same losses take turns, and CPU time is
compared by its medians:

- *dense*: the weights of the point are written, then the model runs;
- *low rank*: the weights stay, one point at a time, or all five along the batch;
- *free*: the weights stay and nothing is added, which no route with a pass for each point can beat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tables import parser, save, table
from torch import Tensor
from torch.nn import functional as F

RANK = 8
VOCABULARY = 2048
AT = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]
DATA = [(1, 4), (1, 16), (1, 64), (4, 128)]


class Line:
    """A transformer between two points that differ by low rank.

    Args:
        width: of its hidden states.
        layers: how many blocks.
    """

    def __init__(self, width: int, layers: int) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel  # the extra `bench` brings it
        from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

        config = GPT2Config(
            n_embd=width,
            n_layer=layers,
            n_head=max(width // 64, 1),
            vocab_size=VOCABULARY,
            n_positions=256,
            bos_token_id=0,
            eos_token_id=0,
        )
        self.model = GPT2LMHeadModel(config).eval().requires_grad_(False)
        self.linear: list[Any] = [m for m in self.model.modules() if isinstance(m, Conv1D)]
        self.start = [m.weight.clone() for m in self.linear]
        self.factors = [
            (
                torch.randn(w.shape[0], RANK) / w.shape[0] ** 0.5,
                0.05 * torch.randn(RANK, w.shape[1]),
            )
            for w in self.start
        ]
        self.end = [w + a @ b for w, (a, b) in zip(self.start, self.factors, strict=True)]

    def dense(self, ids: Tensor) -> Tensor:
        """The losses at all points, one point after the other: (points, texts)."""
        found = []
        for alpha in AT:
            for module, start, end in zip(self.linear, self.start, self.end, strict=True):
                torch.lerp(start, end, alpha, out=module.weight)
            found.append(self._losses(ids))
        for module, start in zip(self.linear, self.start, strict=True):
            module.weight.copy_(start)
        return torch.stack(found)

    def free(self, ids: Tensor) -> Tensor:
        """As many passes, all at the start."""
        return torch.stack([self._losses(ids) for _ in AT])

    def low_rank(self, ids: Tensor, at_once: int) -> Tensor:
        """The same losses as ``dense``, so many points along the batch."""
        found = []
        for first in range(0, len(AT), at_once):
            alphas = torch.tensor(AT[first : first + at_once])
            hooks = [
                module.register_forward_hook(_added(factors, alphas))
                for module, factors in zip(self.linear, self.factors, strict=True)
            ]
            losses = self._losses(ids.repeat(len(alphas), 1))
            found.append(losses.view(len(alphas), -1))
            for hook in hooks:
                hook.remove()
        return torch.cat(found)

    def _losses(self, ids: Tensor) -> Tensor:
        logits = self.model(ids, use_cache=False).logits[:, :-1]
        each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return each.view(len(ids), -1).mean(1)


def _added(factors: tuple[Tensor, Tensor], alphas: Tensor) -> Callable[..., Tensor]:
    """A hook that adds alpha (x A) B to a layer's output."""
    down, up = factors

    def hook(_: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        inner = (inputs[0].flatten(0, -2) @ down).view(len(alphas), -1, RANK)
        scaled = (inner * alphas[:, None, None]).view(-1, RANK)
        return output.flatten(0, -2).addmm_(scaled, up).view(output.shape)

    return hook


def compared(line: Line, texts: int, tokens: int, rounds: int) -> Sequence[str]:
    """One row: the CPU time of the dense route, and how many times that of the others it is."""
    ids = torch.randint(VOCABULARY, (texts, tokens))
    routes: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: line.dense(ids),
        "one": lambda: line.low_rank(ids, 1),
        "all": lambda: line.low_rank(ids, len(AT)),
        "free": lambda: line.free(ids),
    }
    torch.testing.assert_close(routes["all"](), routes["dense"](), rtol=1e-5, atol=1e-5)
    taken: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(rounds):
        for name, route in routes.items():
            began = time.process_time()
            route()
            taken[name].append(time.process_time() - began)
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    gains = [f"{middle['dense'] / middle[name]:.2f}" for name in ("one", "all", "free")]
    return [f"{texts} × {tokens}", f"{1e3 * middle['dense']:.0f} ms", *gains]


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--width", type=int, default=256)
    arguments.add_argument("--layers", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        line = Line(given.width, given.layers)
        rows = [compared(line, texts, tokens, given.rounds) for texts, tokens in DATA]
    head = ["texts × tokens", "dense", "low rank, one by one", "low rank, five at once", "free"]
    text = "\n\n".join(
        [
            f"## A LoRA line of rank {RANK}: what could be gained without moving the weights",
            f"GPT-2 from a config, {given.layers} blocks of width {given.width}, {len(AT)} points, "
            "one thread; CPU time of the dense route, and how many times that of the others it is.",
            table(head, rows),
        ]
    )
    settings = {key: getattr(given, key) for key in ("width", "layers", "rounds")}
    save(given.out, "lowrank", settings, [dict(zip(head, row, strict=True)) for row in rows], text)
    print(text)


if __name__ == "__main__":
    main()
