"""Losses: every loss of torch.nn under every reduction, and language models, are right or refused.

Kinds, and the siblings tried: elementwise losses (mean, none, sum, batchmean, legacy arguments);
class losses (ignored targets, label smoothing, class weights, images); weights that are and are not
divided by; losses of three tensors, and with parameters; packed, left-padded and masked text, token
types, 4-D masks, encoder–decoders, bidirectional models.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ravine
from ravine import (
    InputError,
    Line,
    Objective,
    causal_lm,
    evaluate,
    masked_lm,
    seq2seq_lm,
    supervised,
)
from ravine.objective.tokens import token_losses

GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(23, 5, generator=GENERATOR)
REAL = torch.rand(23, 4, generator=GENERATOR)
SIGNS = (REAL > 0.5).float() * 2 - 1
CLASSES = torch.randint(0, 4, (23,), generator=GENERATOR)
SOME = torch.where(CLASSES == 1, -100, CLASSES)
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 0.5])


def net(last=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), *([last] if last else []))


def agrees(loss, data, model):
    """J in batches of 4 is the loss of all examples at once, in float64."""
    J = Objective(model, supervised(loss), data, dtype=torch.float64, batch_size=4)
    inputs, targets = (part.double() if part.is_floating_point() else part for part in data)
    with torch.no_grad():
        whole = loss.double() if isinstance(loss, nn.Module) else loss
        right = whole(net_of(model)(inputs), targets).item()
    assert J(model)["data"] == pytest.approx(right, rel=1e-6)


def net_of(model):
    import copy

    return copy.deepcopy(model).double()


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize(
    ("loss", "targets", "last"),
    [
        (nn.L1Loss(), REAL, None),
        (nn.MSELoss(), REAL, None),
        (nn.HuberLoss(delta=0.3), REAL, None),
        (nn.SmoothL1Loss(beta=0.5), REAL, None),
        (nn.PoissonNLLLoss(), REAL, None),
        (nn.SoftMarginLoss(), SIGNS, None),
        (nn.HingeEmbeddingLoss(), SIGNS, None),
        (nn.KLDivLoss(), REAL, nn.LogSoftmax(1)),
        (nn.KLDivLoss(reduction="batchmean"), REAL, nn.LogSoftmax(1)),
        (nn.KLDivLoss(reduction="batchmean", log_target=True), REAL.log(), nn.LogSoftmax(1)),
        (functools.partial(F.kl_div, reduction="batchmean"), REAL, nn.LogSoftmax(1)),
        (nn.BCELoss(), REAL, nn.Sigmoid()),
        (nn.BCELoss(weight=WEIGHT), REAL, nn.Sigmoid()),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), REAL, None),
        (nn.MultiLabelSoftMarginLoss(), REAL.round(), None),
        (nn.MultiLabelSoftMarginLoss(weight=WEIGHT), REAL.round(), None),
        (nn.MultiMarginLoss(), CLASSES, None),
        (nn.MultiMarginLoss(weight=WEIGHT), CLASSES, None),
        (nn.CrossEntropyLoss(), CLASSES, None),
        (nn.CrossEntropyLoss(), SOME, None),
        (nn.CrossEntropyLoss(ignore_index=2), CLASSES, None),
        (nn.CrossEntropyLoss(label_smoothing=0.2), SOME, None),
        (nn.CrossEntropyLoss(), REAL / REAL.sum(1, keepdim=True), None),
        (nn.NLLLoss(ignore_index=3), CLASSES, nn.LogSoftmax(1)),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), CLASSES, None),
    ],
)
def test_the_mean_over_examples_is_that_of_the_loss_itself(loss, targets, last):
    agrees(loss, (X, targets), net(last))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), "class weights"),
        (functools.partial(F.nll_loss, weight=WEIGHT), "class weights"),
        (nn.BCELoss(weight=torch.ones(23, 4)), "of the examples of one batch"),
        (nn.MSELoss(reduction="sum"), "reduction='sum'"),
        (functools.partial(F.mse_loss, size_average=False), "reduction='sum'"),
        (nn.CosineEmbeddingLoss(), "takes input1, input2, target"),
        (nn.TripletMarginLoss(), "takes anchor, positive, negative"),
        (nn.GaussianNLLLoss(), "takes input, target, var"),
        (nn.CTCLoss(), "input_lengths"),
        (nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2]), "parameters of its own"),
    ],
)
def test_what_is_no_mean_over_examples_is_refused(loss, said):
    with pytest.raises(InputError, match=said):
        supervised(loss)


def test_pixels_that_are_left_out_keep_the_images_apart():
    targets = torch.randint(0, 3, (6, 4, 5), generator=GENERATOR)
    targets[targets == 2] = -100
    images = torch.randn(6, 2, 4, 5, generator=GENERATOR)
    agrees(nn.CrossEntropyLoss(), (images, targets), nn.Conv2d(2, 2, 1))


# --- language -------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A causal model whose scores are of the tokens so far, their positions and types."""

    def __init__(self, words=11, *, causal=True, reads_mask=True):
        super().__init__()
        self.words, self.causal, self.reads_mask = words, causal, reads_mask
        self.embed, self.place = nn.Embedding(words, 8), nn.Embedding(40, 8)
        self.kind, self.out = nn.Embedding(2, 8), nn.Linear(8, words)

    def forward(self, input_ids, attention_mask=None, position_ids=None, token_type_ids=None):
        length = input_ids.shape[1]
        places = torch.arange(length)[None] if position_ids is None else position_ids
        held = self.embed(input_ids) + self.place(places)
        if token_type_ids is not None:
            held = held + self.kind(token_type_ids)
        allowed = torch.ones(length, length).tril() if self.causal else torch.ones(length, length)
        allowed = allowed[None].expand(len(input_ids), -1, -1)
        if attention_mask is not None and self.reads_mask:
            wide = attention_mask[:, None] if attention_mask.ndim == 2 else attention_mask[:, 0]
            allowed = allowed * wide
        if position_ids is not None and attention_mask is None:  # texts packed in one row
            text = (position_ids == 0).cumsum(1)
            allowed = allowed * (text[:, :, None] == text[:, None])
        shares = allowed / allowed.sum(2, keepdim=True).clamp(min=1)
        return self.out(torch.tanh(shares.to(held) @ held))


@pytest.fixture
def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield Tiny()


def by_text(model, texts, **more):
    """Text by text, token by token, in float64."""
    wide = net_of(model)
    total = count = 0.0
    with torch.no_grad():
        for text in texts:
            scores = wide(input_ids=text[None], **more).log_softmax(-1)[0]
            for place in range(len(text) - 1):
                total -= scores[place, text[place + 1]].item()
                count += 1
    return total / count


TEXTS = [torch.randint(1, 11, (n,), generator=GENERATOR) for n in (7, 4, 9)]


def padded(left=False):
    rows, masks = [], []
    for text in TEXTS:
        gap = torch.zeros(9 - len(text), dtype=torch.long)
        mask = torch.ones(len(text), dtype=torch.long)
        rows.append(torch.cat([gap, text] if left else [text, gap]))
        masks.append(torch.cat([gap, mask] if left else [mask, gap]))
    return {"input_ids": torch.stack(rows), "attention_mask": torch.stack(masks)}


def J_of(model, batch, per_example=None):
    per_example = per_example or causal_lm()
    return Objective(model, per_example, [batch], dtype=torch.float64)(model)["data"]


class TestCausal:
    @pytest.mark.parametrize("left", [False, True])
    def test_padding_on_either_side(self, tiny, left):
        assert J_of(tiny, padded(left)) == pytest.approx(by_text(tiny, TEXTS), rel=1e-9)

    def test_texts_packed_in_one_row(self, tiny):
        packed = {
            "input_ids": torch.cat(TEXTS)[None],
            "position_ids": torch.cat([torch.arange(len(text)) for text in TEXTS])[None],
        }
        assert J_of(tiny, packed) == pytest.approx(by_text(tiny, TEXTS), rel=1e-9)

    def test_token_types_and_entries_that_the_model_does_not_know(self, tiny):
        batch = padded() | {
            "token_type_ids": torch.ones(3, 9, dtype=torch.long),
            "number": [1, 2, 3],
        }
        ones = [torch.ones(1, len(text), dtype=torch.long) for text in TEXTS]
        wide, losses = net_of(tiny), []
        for text, kinds in zip(TEXTS, ones, strict=True):
            scores = wide(input_ids=text[None], token_type_ids=kinds)[0, :-1]
            losses.append(F.cross_entropy(scores, text[1:], reduction="none"))
        right = torch.cat(losses).mean().item()
        assert J_of(tiny, batch) == pytest.approx(right, rel=1e-9)

    def test_a_mask_of_four_dims(self, tiny):
        batch = padded()
        mask = batch["attention_mask"]
        wide = batch | {"attention_mask": mask[:, None, None].expand(-1, 1, 9, -1)}
        with pytest.raises(InputError, match="does not say which tokens"):
            J_of(tiny, wide)
        wide["labels"] = torch.where(mask == 0, -100, batch["input_ids"])
        assert J_of(tiny, wide) == pytest.approx(by_text(tiny, TEXTS), rel=1e-9)

    def test_a_model_that_sees_what_it_predicts_is_refused(self):
        with pytest.raises(InputError, match="is not causal"):
            J_of(Tiny(causal=False), padded())

    def test_a_model_that_ignores_the_mask_is_refused_for_padding_on_the_left(self):
        model = Tiny(reads_mask=False)
        with pytest.raises(InputError, match="behind padding on its left"):
            J_of(model, padded(left=True))

    def test_texts_are_the_clusters(self, tiny):
        ends = [tiny.state_dict(), {n: t + 0.1 for n, t in tiny.state_dict().items()}]
        by_row = evaluate(Objective(tiny, causal_lm(), [padded()]), along=Line(*ends), at=[0, 1])
        alone = evaluate(
            Objective(tiny, causal_lm(), [padded()], clusters=lambda q: range(27)),
            along=Line(*ends),
            at=[0, 1],
        )
        assert int(by_row["n_examples"].values.ravel()[0]) == 17
        assert (by_row["loss_stderr"].values != alone["loss_stderr"].values).all()

    def test_few_targets_cost_no_more_and_are_the_same(self):
        logits = torch.randn(3, 5, 7, generator=GENERATOR)
        targets = torch.full((3, 5), -100)
        targets[1, 2], targets[2, 0] = 4, 6
        found = token_losses(logits, targets)["loss"]
        right = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        kept = targets != -100
        torch.testing.assert_close(found[kept], right.view(3, 5)[kept])
        assert found[~kept].isnan().all()

    def test_a_score_that_is_no_number_is_no_hole(self):
        logits = torch.full((1, 2, 3), torch.nan)
        found = token_losses(logits, torch.tensor([[1, -100]]))["loss"]
        assert found[0, 0] == torch.inf


def test_masked_models_are_asked_for_the_hidden_tokens():
    model = Tiny(causal=False)
    batch = padded()
    labels = torch.full((3, 9), -100)
    labels[0, 2], labels[2, 5] = batch["input_ids"][0, 2], batch["input_ids"][2, 5]
    scores = net_of(model)(**batch).log_softmax(-1)
    right = -(scores[0, 2, labels[0, 2]] + scores[2, 5, labels[2, 5]]).item() / 2
    assert J_of(model, batch | {"labels": labels}, masked_lm()) == pytest.approx(right, rel=1e-9)
    with pytest.raises(InputError, match="needs 'labels'"):
        J_of(model, batch, masked_lm())


class Pair(nn.Module):
    """An encoder–decoder that is told how its decoder begins."""

    config = None

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(9, 6), nn.Embedding(9, 6)
        self.out = nn.Linear(6, 9)

    def shifted(self, labels):
        return F.pad(labels[:, :-1].clamp(min=0), (1, 0), value=0)

    def forward(self, input_ids, decoder_input_ids):
        return self.out(
            self.source(input_ids).mean(1, keepdim=True) + self.target(decoder_input_ids)
        )


class Prepares(Pair):
    def prepare_decoder_input_ids_from_labels(self, labels):
        return self.shifted(labels)


class ShiftsItself(Pair):
    """As Whisper and NLLB do."""

    def forward(self, input_ids, decoder_input_ids=None, labels=None):
        if labels is not None:
            decoder_input_ids = self.shifted(labels)
        return super().forward(input_ids, decoder_input_ids)


@pytest.mark.parametrize("kind", [Prepares, ShiftsItself])
def test_an_encoder_decoder_predicts_the_second_text(kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = kind()
    labels = torch.tensor([[3, 4, 5], [2, 1, -100]])
    source = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    wide = net_of(model)
    scores = wide(source, wide.shifted(labels))
    right = F.cross_entropy(scores.flatten(0, 1), labels.flatten()).item()
    batch = {"input_ids": source, "labels": labels}
    assert J_of(model, batch, seq2seq_lm()) == pytest.approx(right, rel=1e-9)
    own = batch | {"decoder_input_ids": wide.shifted(labels)}
    assert J_of(model, own, seq2seq_lm()) == pytest.approx(right, rel=1e-9)


def test_a_decoder_that_does_not_say_how_it_begins_is_refused():
    batch = {"input_ids": torch.tensor([[1, 2]]), "labels": torch.tensor([[3, 4]])}
    with pytest.raises(InputError, match="give 'decoder_input_ids' in the batch"):
        J_of(Pair(), batch, seq2seq_lm())


IN_TURN = torch.arange(23) % 4


class TestWhatTheLossWasGiven:
    """A mistake in the targets is told in terms of the data; torch's own error names no data."""

    @pytest.mark.parametrize(
        ("targets", "said"),
        [
            (IN_TURN + 1, r"int64, from 1 to 4: .*Expected targets of .* int64, from 0 to 3\."),
            (IN_TURN - 1, r"int64, from -1 to 2: .*from 0 to 3\."),
            (IN_TURN.float(), r"\(\d+,\), float32: .*type int64, from 0 to 3\."),
            (IN_TURN[:, None], r"\(\d+, 1\), int64, .*targets of shape \(\d+,\)"),
            (torch.full_like(IN_TURN, 7), r"from 7 to 7: .*from 0 to 3"),
        ],
        ids=["one too large", "one too small", "floating", "columns", "of another problem"],
    )
    def test_targets_that_are_no_classes_of_the_model(self, targets, said):
        J = Objective(net(), supervised(F.cross_entropy), (X, targets))
        with pytest.raises(InputError, match=said) as caught:
            J(net())
        assert caught.value.__notes__[0].endswith("split 'data', batch 0")

    def test_a_loss_of_one_s_own(self):
        def mine(outputs, targets):
            return (outputs - targets).square().sum(1)

        J = Objective(net(), supervised(mine), (X, REAL[:, :3]))
        with pytest.raises(InputError, match=r"mine failed on outputs of shape \(\d+, 4\)"):
            J(net())

    def test_what_says_itself_what_is_wrong_stays(self):
        def refusing(outputs, targets):
            raise InputError("not today")

        def full(outputs, targets):
            raise torch.cuda.OutOfMemoryError("no memory")

        with pytest.raises(InputError, match="^not today"):
            Objective(net(), supervised(refusing), (X, REAL))(net())
        with pytest.raises(torch.cuda.OutOfMemoryError):
            Objective(net(), supervised(full), (X, REAL))(net())

    def test_a_value_in_place_of_a_loss(self):
        with pytest.raises(InputError, match="got a Tensor. Give the function itself"):
            supervised(F.cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)))


class TestHowTheFunctionIsCalled:
    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (causal_lm, r"Call it, ravine.causal_lm\(…\)"),
            (lambda model: 0, "too many positional arguments"),
            (lambda model, x, y: 0, "missing a required argument: 'y'"),
            (lambda model, batch, *, scale: 0, "missing a required argument: 'scale'"),
            (ravine.stateful(lambda model, batch: 0), "called with model and batch and state"),
        ],
        ids=["a maker", "one argument", "three", "a keyword", "without its state"],
    )
    def test_other_arguments_are_refused_before_anything_is_read(self, function, said):
        with pytest.raises(InputError, match=said):
            Objective(net(), function, iter(()))

    def test_defaults_and_partial_functions_are_fine(self):
        def scaled(model, batch, scale=1.0, *rest):
            return scale * model(batch[0]).sum(1)

        for function in (scaled, functools.partial(scaled, scale=2.0)):
            assert np.isfinite(Objective(net(), function, (X,))(net())["data"])
