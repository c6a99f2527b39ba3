"""Multiple-choice questions: scored as by hand, one choice at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import ravine
from ravine import InputError

LETTERS = 40


def tokenizer(text):
    """A letter is a token, and so is a space with the letter after it."""
    ids, place = [], 0
    while place < len(text):
        pair = text[place] == " " and place + 1 < len(text)
        ids.append((ord(text[place + pair]) + 7 * pair) % LETTERS)
        place += 1 + pair
    return ids


class Reader(nn.Module):
    """A causal model: a recurrent layer over letters."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(LETTERS, 12)
        self.layer = nn.GRU(12, 12, batch_first=True)
        self.out = nn.Linear(12, LETTERS)

    def forward(self, ids):
        return self.out(self.layer(self.embedding(ids))[0])


ITEMS = [
    ("the sky is", ["blue", "a", "very green"], 0),
    ("two and two ", ["four", "five"], 1),
    ("x", ["yy", "z", "w", "y"], 3),
    ("once upon a", ["time", "mattress of straw"], 1),
]


def by_hand(model, items):
    """Log-likelihoods of each choice by itself, and what lm-evaluation-harness makes of them."""
    found = []
    for text, given, right in items:
        question = text.rstrip()
        scores = []
        for choice in given:
            whole = tokenizer(question + text[len(question) :] + " " + choice)
            with torch.no_grad():
                known = model(torch.tensor([whole[:-1]]))[0].double().log_softmax(-1)
            wanted = range(len(tokenizer(question)), len(whole))
            scores.append(sum(float(known[place - 1, whole[place]]) for place in wanted))
        lengths = np.array([float(len(choice)) for choice in given])
        found.append(
            (
                -scores[right],
                float(np.argmax(scores) != right),
                float(np.argmax(scores / lengths) != right),
            )
        )
    return np.array(found).T


NAMES = ("loss", "error", "error_normalised")


@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 3), (2, 4)])
def test_every_choice_is_scored_as_by_itself(seed, size):
    model = Reader(seed)
    J = ravine.Objective(
        model, ravine.choices(), ravine.questions(ITEMS, tokenizer), batch_size=size
    )
    curve = ravine.evaluate(J, along=ravine.Line(model, Reader(seed + 10)), at=[0, 1])
    for alpha, there in ((0, model), (1, Reader(seed + 10))):
        truth = by_hand(there, ITEMS).mean(axis=1)
        found = [float(curve[name].sel(alpha=alpha, split="data")) for name in NAMES]
        np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_both_accuracies_differ_where_a_choice_is_long():
    """Otherwise the test above would see the one where the other is meant."""
    errors = np.stack([by_hand(Reader(seed), ITEMS)[1:] for seed in range(6)])
    assert (errors[:, 0] != errors[:, 1]).any()


def test_of_equal_choices_the_first_is_the_answer():
    class Uniform(nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, LETTERS)

    items = [("q", ["a", "b", "c"], right) for right in range(3)]
    found = ravine.choices()(Uniform(), ravine.questions(items, tokenizer))
    assert found["error"].tolist() == found["error_normalised"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(found["loss"], np.log(LETTERS), rtol=1e-6)


def test_what_is_too_long_loses_its_beginning():
    read, predicted, *_ = ravine.questions([("abcdef", ["gh", "i"], 0)], tokenizer, length=4)
    whole = tokenizer("abcdef gh")
    assert read[0, 0].tolist() == whole[-5:-1]
    assert predicted[0, 0].tolist() == [-100, -100, *whole[-2:]]
    assert predicted[0, 1].tolist() == [-100, -100, -100, tokenizer(" i")[0]]


def test_a_hugging_face_tokenizer_adds_no_special_tokens_but_before_an_empty_question():
    class Theirs:
        bos_token_id, eos_token_id = None, 39

        def __call__(self, text, add_special_tokens=True):
            assert not add_special_tokens
            return {"input_ids": tokenizer(text), "attention_mask": []}

    read, predicted, *_ = ravine.questions([("", ["a", "b"], 0)], Theirs())
    assert read[0, 0].tolist() == [39]
    assert predicted[0, 0].tolist() == tokenizer(" a")


def test_a_paired_difference_of_accuracies_is_decided():
    """One model knows the rule and the other does not: the same questions at every point."""
    generator = np.random.default_rng(0)
    letters = "abcdefgh"
    items = []
    for _ in range(300):
        letter = str(generator.choice(list(letters)))
        others = [str(one) for one in generator.permutation(list(letters.replace(letter, "")))[:3]]
        right = int(generator.integers(4))
        items.append((letter * 3, [*others[:right], letter, *others[right:]], right))
    knows, ignorant = Reader(1), Reader(1)
    optimiser = torch.optim.Adam(knows.parameters(), lr=0.02)
    data = ravine.questions(items, tokenizer)
    for _ in range(60):
        optimiser.zero_grad()
        ravine.choices()(knows, data)["loss"].mean().backward()
        optimiser.step()
    J = ravine.Objective(ignorant, ravine.choices(), data)
    curve = ravine.evaluate(J, along=ravine.Line(ignorant, knows), at=np.linspace(0, 1, 5))
    rates = curve["error"].sel(split="data").values
    assert rates[0] > 0.5
    assert rates[-1] < 0.05
    found = ravine.metrics.decide(curve, "rise", above=0.05, quantity="error")
    assert found.answer == "excluded", str(found)
    assert "error rate by likelihoods per character" in str(ravine.metrics.verdict(curve))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "a question at least"),
        ([("a", ["b"], 0)], r"item 0 must be \(question, choices"),
        ([("a", ["b", "c"], 0), ("a", ["b", "c"], 2)], "item 1 must be"),
        ([("a", "bc", 0)], "item 0 must be"),
        ([("a", ["b", 3], 0)], "item 0 must be"),
        ([("", ["b", "c"], 0)], "item 0 has no tokens in its question"),
    ],
)
def test_senseless_questions_are_refused(items, said):
    with pytest.raises(InputError, match=said):
        ravine.questions(items, tokenizer)


def test_other_batches_and_choices_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"reads batches of four tensors.*questions"):
        ravine.Objective(Reader(), ravine.choices(), (torch.zeros(3, 4).long(),))(Reader())
    with pytest.raises(InputError, match="a choice of 4 tokens; the model can attend to length=3"):
        ravine.questions([("a", ["bcde", "f"], 0)], tokenizer, length=3)
    with pytest.raises(InputError, match="has no tokens in its choice ''"):
        ravine.questions([("a", ["", "f"], 0)], tokenizer, separator="")
