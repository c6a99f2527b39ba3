"""Networks of every kind that alignment has to follow, small, each with a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(9, 5, generator=torch.Generator().manual_seed(2))
SEQUENCES = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(3))
TOKENS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(4))


class NormedMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b, self.c = (
            nn.Linear(5, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 9),
            nn.Linear(9, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.n(self.a(x))))))


class Residual(nn.Module):
    """Convolutions around a residual sum, BatchNorm, and flatten before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.outer, self.head = nn.Conv2d(10, 8, 3, padding=1), nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner_norm(self.inner(x))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Grouped(nn.Module):
    """A depthwise convolution, and one of three groups between two of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.into, self.groups = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 15, 3, groups=3)
        self.up, self.head = nn.ConvTranspose2d(15, 6, 2, 2), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(self.stem(x)))
        x = torch.relu(self.groups(torch.relu(self.into(x))))
        return self.head(torch.relu(self.up(x))).mean((2, 3))


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 12 * 3), nn.Linear(12, 8 * 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).view(-1, 12, 3).amax(2)
        return self.c(self.b(x).view(-1, 8, 3).max(-1).values)


class Dense(nn.Module):
    """Each convolution sees all before it, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 3, padding=1)
        self.c, self.n = nn.Conv2d(13, 6, 3, padding=1), nn.BatchNorm2d(19)
        self.head = nn.Linear(19 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = torch.cat([x, self.b(x).relu()], 1)
        x = torch.cat([x, self.c(x).relu()], 1)
        return self.head(F.avg_pool2d(self.n(x), 4).flatten(1))


class Attention(nn.Module):
    """Three heads of queries for each head of keys and values, or one; positions rotate nothing."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        self.keys, width = keys, 12
        self.embed, self.norm, self.head = (
            nn.Linear(5, width),
            nn.LayerNorm(width),
            nn.Linear(width, 4),
        )
        self.q, self.o = nn.Linear(width, 6 * 4), nn.Linear(6 * 4, width)
        self.k, self.v = nn.Linear(width, keys * 4), nn.Linear(width, keys * 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        q, k, v = (
            part(y).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.keys < 6)
        return self.head(x + self.o(y.transpose(1, 2).flatten(2)))


class Fused(nn.Module):
    """Queries, keys and values in one matrix, taken apart as timm does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(5, 12), nn.Linear(12, 36)
        self.o, self.head = nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, width = x.shape
        apart = self.qkv(x).reshape(batch, length, 3, 3, width // 3).permute(2, 0, 3, 1, 4)
        q, k, v = apart.unbind(0)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(x + self.o(y.transpose(1, 2).reshape(batch, length, width)))


class Recurrent(nn.Module):
    """A two-way LSTM of two layers, then a GRU whose last state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.gru, self.head = nn.GRU(12, 7, 2), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(self.lstm(self.embed(x))[0])
        return self.head(last[-1])


class Tied(nn.Module):
    """The embedding is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(F.gelu(self.up(x))))


class Experts(nn.Module):
    """Three experts, each with hidden units of its own, and gated linear units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate, self.head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 4)
        self.up = nn.Parameter(torch.randn(3, 8, 32) * 0.3)
        self.down = nn.Parameter(torch.randn(3, 16, 8) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        hidden = F.glu(torch.einsum("bd,edh->beh", x, self.up))
        found = torch.einsum("beh,ehd->bed", hidden, self.down)
        return self.head(x + (found * self.gate(x).softmax(-1)[..., None]).sum(1))


class Mixer(nn.Module):
    """Tokens mixed by one layer, channels by another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.t1, self.t2 = nn.Linear(6, 10), nn.Linear(10, 6)
        self.c1, self.c2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.t2(F.gelu(self.t1(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.c2(F.gelu(self.c1(x)))).mean(1))


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(x, x, x)[0])


class Queries(nn.Module):
    """Positions by row and column, concatenated, and learned queries that attend to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.queries = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(3, 8))
        self.row, self.column = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.again, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        column, row = self.column.repeat(4, 1, 1), self.row.unsqueeze(1).repeat(1, 4, 1)
        x = self.stem(x).flatten(2).transpose(1, 2) + torch.cat([column, row], -1).flatten(0, 1)
        asked = self.queries.repeat(len(x), 1, 1)
        asked = asked + self.attention(asked, asked, asked)[0]
        return self.head(asked + self.again(asked, x, x)[0])


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 3))


def _normed() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8), nn.GELU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 3))


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 20, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 20}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=16))


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = ViTConfig(**sizes, num_attention_heads=2, image_size=8, patch_size=4)
    return ViTForImageClassification(config)


ZOO: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp with layer norm": (NormedMlp, ROWS),
    "residual convolutions": (Residual, IMAGES),
    "grouped and depthwise": (Grouped, IMAGES),
    "maxout": (Maxout, ROWS),
    "concatenation": (Dense, IMAGES),
    "attention": (lambda: Attention(6), SEQUENCES),
    "grouped queries": (lambda: Attention(2), SEQUENCES),
    "fused attention": (Fused, SEQUENCES),
    "multi-head module": (MultiHead, SEQUENCES),
    "encoder layer": (_encoder, SEQUENCES),
    "other norms": (_normed, IMAGES),
    "recurrent": (Recurrent, TOKENS),
    "tied embeddings": (Tied, TOKENS),
    "learned queries": (Queries, IMAGES),
    "experts": (Experts, ROWS),
    "mixer": (Mixer, SEQUENCES),
    "gpt2": (_gpt2, TOKENS),
    "llama": (_llama, TOKENS),
    "vit": (_vit, IMAGES),
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, Any]:
    """A network of the zoo with random parameters, biases and running statistics included."""
    torch.manual_seed(seed)
    make, batch = ZOO[name]
    model = make().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for key, buffer in model.named_buffers():
            if "running" in key:
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model, batch
