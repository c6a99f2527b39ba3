"""The language model: equations, streams, steps and text, by closed forms and second routes."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import ravine
from ravine.paper import claims, data
from ravine.paper.figures import FIGURES, Study
from ravine.paper.figures.lstm import beside_published
from ravine.paper.models import LARGE, LSTM, MEDIUM, SMALL
from ravine.paper.models.lstm import Words
from ravine.paper.recipe import Divided
from ravine.paper.recipes import recipe
from ravine.paper.tasks.by_network import task_for
from ravine.paper.tasks.language import per_word, streams, windows
from ravine.paper.training import Training, train

TINY = LSTM(words=8, units=12, layers=2, init=0.3, keep=1.0, window=7)


def tiny(keep: float = 1.0, epochs: int = 3, clip: float = 5.0):
    """On 1,003 words in 10 streams: an uneven last window."""
    quick = recipe("lstm-small-ptb", "quick")
    phase = replace(quick.phases[0], epochs=epochs, clip=clip)
    return replace(quick, train=1_003, valid=205, network=replace(TINY, keep=keep), phases=(phase,))


@pytest.fixture(scope="module")
def babble():
    return data.load("babble")


class TestNetwork:
    def test_sizes_are_those_of_the_published_networks(self):
        with torch.device("meta"):
            sizes = [
                sum(p.numel() for p in Words(sizes).parameters())
                for sizes in (SMALL, MEDIUM, LARGE)
            ]
        assert sizes == [4_653_200, 19_780_400, 66_034_000]

    def test_every_parameter_starts_in_its_interval(self):
        for name, tensor in SMALL.build(3).named_parameters():
            assert float(tensor.detach().abs().max()) <= SMALL.init * (1 + 1e-7), name  # in float32
            assert float(tensor.detach().std()) == pytest.approx(
                SMALL.init / math.sqrt(3), rel=0.1
            ), name

    def test_it_starts_knowing_nothing(self):
        words = torch.randint(10_000, (20, 50), generator=torch.Generator().manual_seed(0))
        losses, _ = per_word(SMALL.build(0).eval(), (words[:-1], words[1:]), None)
        assert float(losses.detach().mean()) == pytest.approx(math.log(10_000), abs=0.01)

    def test_the_cells_are_the_papers_equations(self):
        """Zaremba et al. 2014, section 3.1, one layer after the other, in float64."""
        model = TINY.build(1).double().eval()
        words = torch.arange(15).reshape(5, 3) % 8
        logits, (outputs, memories) = model(words)
        p = {name: tensor.detach() for name, tensor in model.named_parameters()}
        below = p["embedding.weight"][words]
        for layer in range(2):
            h = c = torch.zeros(3, 12, dtype=torch.float64)
            above = []
            for x in below:
                gates = x @ p[f"cells.weight_ih_l{layer}"].T + p[f"cells.bias_ih_l{layer}"]
                gates = gates + h @ p[f"cells.weight_hh_l{layer}"].T + p[f"cells.bias_hh_l{layer}"]
                i, f, g, o = gates.chunk(4, dim=1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                above.append(h)
            torch.testing.assert_close(outputs[layer], h)
            torch.testing.assert_close(memories[layer], c)
            below = torch.stack(above)
        torch.testing.assert_close(logits, below @ p["logits.weight"].T + p["logits.bias"])

    def test_nothing_that_goes_on_in_time_is_dropped(self):
        """Without inputs a cell knows its past only; then masks make no difference."""
        model = replace(TINY, keep=0.5).build(0)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "weight_ih" in name:
                    tensor.zero_()
        words = torch.arange(20).reshape(5, 4) % 8
        with torch.random.fork_rng():
            torch.manual_seed(0)
            masked, masked_state = model.train()(words)
        plain, state = model.eval()(words)
        torch.testing.assert_close(masked_state, state)
        assert not torch.allclose(masked, plain)  # what goes into the logits is dropped


class TestStreams:
    def test_streams_start_evenly_over_the_text(self):
        found = streams(torch.arange(929_589), 20)
        assert found.shape == (46_479, 20)
        # data.lua: round((i − 1) · s / batch_size), halves away from zero
        assert found[0, [0, 1, 10, 19]].tolist() == [0, 46_479, 464_795, 883_110]
        assert bool((found.diff(dim=0) == 1).all())

    def test_windows_hold_every_word_but_the_last_and_what_follows(self):
        stream = streams(torch.arange(100), 3)
        cut = windows(stream, 8)
        assert torch.equal(torch.cat([words for words, _ in cut]), stream[:-1])
        assert torch.equal(torch.cat([following for _, following in cut]), stream[1:])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_objective_does_not_depend_on_the_windows(self, babble, dtype):
        stream = streams(babble["valid"][0][:700], 3)
        model = TINY.build(0)
        found = [
            ravine.Objective(model, per_word, windows(stream, length), dtype=dtype)(model)["data"]
            for length in (5, 35, 1000)
        ]
        assert found[1:] == pytest.approx(
            found[:1] * 2, rel=1e-6 if dtype == torch.float32 else 1e-13
        )

        def forgetful(net, batch):
            return per_word(net, batch, None)[0]

        alone = ravine.Objective(model, forgetful, windows(stream, 5), dtype=dtype)(model)["data"]
        assert abs(alone - found[0]) > 1e-5 * found[0]  # so the state is carried, and matters

    def test_every_point_of_a_line_carries_its_own_state(self, babble):
        stream = streams(babble["valid"][0][:700], 3)
        J = ravine.Objective(TINY.build(0), per_word, windows(stream, 11))
        line = ravine.Line(TINY.build(0), TINY.build(1))
        together = ravine.evaluate(J, along=line, at=[0.0, 0.3, 1.0])["loss"].values[:, 0]
        apart = [
            float(ravine.evaluate(J, along=line, at=[alpha])["loss"][0, 0])
            for alpha in (0.0, 0.3, 1.0)
        ]
        assert together.tolist() == apart


class TestSteps:
    def test_the_rate_is_divided_once_for_every_later_epoch(self):
        rate = recipe("lstm-small-ptb").phases[0].rate
        assert rate == Divided(1.0, 5, 2.0)
        assert [rate.at(0, epoch) for epoch in (1, 5, 6, 7, 13)] == [1, 1, 1 / 2, 1 / 4, 1 / 256]
        assert recipe("lstm-medium-ptb").phases[0].rate.at(0, 9) == pytest.approx(1 / 1.44)

    def test_an_update_goes_down_the_sum_over_time_of_the_mean_over_streams(self, babble, tmp_path):
        job = Training(tiny(), babble, tmp_path)
        stream = job.task.streams["train"]
        assert stream.shape == (100, 10)
        model, state = job.model, None
        objectives = [float(o.detach()) for o in job.task.epoch(model, 0, job.order)]
        assert len(objectives) == 14  # 99 time steps hold 14 windows of 7; the last one is left out
        for number, found in enumerate(objectives):
            seven = stream[7 * number : 7 * number + 8]
            logits, state = model(seven[:-1], state)
            sums = [float(F.cross_entropy(logits[t].detach(), seven[t + 1])) for t in range(7)]
            assert found == pytest.approx(sum(sums), rel=1e-5)

    def test_every_pass_starts_from_zero(self, babble, tmp_path):
        job = Training(tiny(), babble, tmp_path)
        one, again = (
            [float(o.detach()) for o in job.task.epoch(job.model, 0, job.order)] for _ in range(2)
        )
        assert one == again

    def test_an_epoch_is_the_loop_of_the_original(self, babble, tmp_path):
        """A second route: .backward(), the norm over .grad, shrunk, and a plain step."""
        chosen = tiny(clip=0.8)  # gradients are longer than that, and shorter ones come too
        job = Training(chosen, babble, tmp_path)
        mirror, state, lengths = chosen.network.build(0), None, []
        for seven, following in windows(job.task.streams["train"], 7)[:14]:
            logits, state = mirror(seven, state)
            state = tuple(s.detach() for s in state)
            mirror.zero_grad()
            (7 * F.cross_entropy(logits.flatten(0, 1), following.flatten())).backward()
            lengths.append(float(torch.cat([p.grad.flatten() for p in mirror.parameters()]).norm()))
            with torch.no_grad():
                for p in mirror.parameters():
                    p -= 0.2 * p.grad * min(1, 0.8 / lengths[-1])
        job.epoch()
        assert min(lengths) < 0.8 < max(lengths)
        for ours, theirs in zip(job.model.parameters(), mirror.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

    def test_a_clipped_step_is_as_long_as_the_rate_times_the_clip(self, babble, tmp_path):
        job = Training(tiny(clip=0.01), babble, tmp_path)
        before = torch.cat([p.detach().double().flatten() for p in job.params.values()])
        job.step(next(job.task.epoch(job.model, 0, job.order)), 3.0, 0.0)
        after = torch.cat([p.detach().double().flatten() for p in job.params.values()])
        assert float((after - before).norm()) == pytest.approx(0.03, rel=1e-4)


class Killed(Exception):
    pass


class TestTraining:
    @pytest.mark.parametrize("after", [1, 2])
    def test_killed_and_resumed_gives_the_same_bits(self, after, tmp_path):
        job = tiny(keep=0.5)
        whole = train(job, tmp_path / "whole")
        lines = itertools.count(1)

        def say(_):
            if next(lines) == after:
                raise Killed

        with pytest.raises(Killed):
            train(job, tmp_path / "cut", say=say)
        resumed = train(job, tmp_path / "cut")
        ours, theirs = load_file(resumed.solution), load_file(whole.solution)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert resumed.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))

    def test_masks_are_in_the_objective_and_not_in_the_loss(self, tmp_path):
        history = train(tiny(keep=0.5), tmp_path).history
        assert not np.allclose(history["objective"], history["loss"], rtol=1e-4)
        plain = train(tiny(), tmp_path).history
        assert np.array_equal(plain["objective"], plain["loss"])
        np.testing.assert_allclose(plain["perplexity"], np.exp(plain["loss"]))

    def test_ravine_measures_what_the_trainer_saw(self, babble, tmp_path):
        run = train(tiny(), tmp_path)
        J = task_for(run.recipe.network, run.recipe, babble).objective(["train", "valid"])
        curve = ravine.evaluate(J, along=ravine.Line(run.start, run.solution), at=[0.0, 1.0])
        seen = run.history["loss"].sel(split="valid").values[[0, -1]]
        np.testing.assert_allclose(curve["loss"].sel(split="valid"), seen, rtol=1e-6)
        assert curve["loss"].attrs["units"] == "nats"
        assert curve["n_examples"].values.tolist() == [990, 190]
        assert run.best_step == 42  # 3 epochs of 14 updates: the last one

    def test_it_learns_the_text_as_well_as_that_can_be_known(self, tmp_path):
        """Nothing beats the entropy rate; who remembers one word only is left with 1.87 nats."""
        after = data.chain()
        pairs = np.full((8, 8), 1 / 64)
        for _ in range(1000):
            pairs = np.einsum("ab,abc->bc", pairs, after)
        rate = -(pairs[..., None] * after * np.log(after)).sum()
        one = np.einsum("ab,abc->bc", pairs, after) / pairs.sum(0)[:, None]
        forgetful = -(pairs.sum(0)[:, None] * one * np.log(one)).sum()
        run = train(recipe("lstm-small-ptb", "quick"), tmp_path)
        found = float(run.history["loss"].sel(split="valid")[-1])
        assert rate - 0.06 < found < rate + 0.1  # 3,000 words: ± 0.016
        assert found < forgetful - 0.5
        assert run.test["perplexity"][0] == pytest.approx(math.exp(run.test["loss"][0]))

    def test_a_short_text_is_refused(self, babble, tmp_path):
        with pytest.raises(
            ravine.InputError, match=r"takes 99999 words to train on; babble has 24000"
        ):
            Training(replace(tiny(), train=99_999), babble, tmp_path)

    def test_more_words_than_the_network_knows_are_refused(self, babble, tmp_path):
        with pytest.raises(ravine.InputError, match="knows 7 words; babble has 8"):
            Training(replace(tiny(), network=replace(TINY, words=7)), babble, tmp_path)


@pytest.fixture
def treebank(tmp_path, monkeypatch):
    """Three short files under the Penn Treebank's names."""
    monkeypatch.delenv("RAVINE_DATA", raising=False)
    folder = tmp_path / "official" / "ptb"
    folder.mkdir(parents=True)

    def write(**texts: str):
        for split, text in texts.items():
            (folder / f"ptb.{split}.txt").write_text(text)
        files = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()
        }
        monkeypatch.setitem(data.SOURCES, "ptb", data.Source("tiny", files, ()))
        return folder.parent

    return write


class TestText:
    def test_words_are_numbered_as_they_first_appear(self, treebank):
        place = treebank(
            train=" the cat sat \n the <unk> N \n", valid=" N cat \n", test=" sat \n sat \n"
        )
        found = {split: words.tolist() for split, (words,) in data.load("ptb", place).items()}
        #        the 0, cat 1, sat 2, <eos> 3, <unk> 4, N 5
        assert found == {
            "train": [0, 1, 2, 3, 0, 4, 5, 3],
            "valid": [5, 1, 3],
            "test": [2, 3, 2, 3],
        }

    def test_a_word_that_the_training_part_lacks_is_named(self, treebank):
        place = treebank(train=" a b \n", valid=" a \n", test=" a dog \n")
        with pytest.raises(
            ravine.InputError, match="the test part of ptb has words that .* such as 'dog'"
        ):
            data.load("ptb", place)

    def test_a_changed_file_is_refused(self, treebank):
        place = treebank(train=" a b \n", valid=" a \n", test=" a \n")
        (place / "ptb" / "ptb.valid.txt").write_text(" b \n")
        with pytest.raises(ravine.InputError, match=r"ptb.valid.txt' is damaged or another file"):
            data.load("ptb", place)

    def test_babble_is_drawn_from_its_chain(self, babble):
        words = torch.cat([babble[split][0] for split in ("train", "valid", "test")])
        counts = torch.zeros(8, 8, 8, dtype=torch.float64)
        counts.index_put_(
            (words[:-2], words[1:-1], words[2:]), torch.tensor(1.0).double(), accumulate=True
        )
        seen = counts.sum(2, keepdim=True)
        expected = torch.from_numpy(data.chain()) * seen
        # χ² over all cells that are expected at least five times, less one in every row that has
        # any
        big = expected >= 5
        chi = float(((counts - expected) ** 2 / expected)[big].sum())
        free = int(big.sum()) - int(big.any(2).sum())
        assert abs(chi - free) < 5 * math.sqrt(2 * free)


@pytest.mark.long
def test_figure_8_is_drawn_and_its_claims_are_judged(tmp_path):
    study = Study("quick", tmp_path)
    outcome = FIGURES["fig8"](study)
    assert set(outcome.results) == {"deterministic", "coarse"}  # the small network has no masks
    fine = outcome.results["deterministic"]
    assert fine["n_examples"].values.tolist() == [23_990, 2_990]
    outcome.figure.save(tmp_path / "fig8.pdf")
    assert (tmp_path / "fig8.pdf").stat().st_size > 10_000
    assert "the state carried from window to window" in outcome.figure.caption
    assert "published" not in outcome.figure.caption  # this text is no published one
    found = {claim.name: claim.judged(outcome) for claim in claims.CLAIMS if claim.figure == "fig8"}
    assert found["lstm-no-obstacle"].arm == "holds"  # of a network that is not the paper's
    assert 0 < found["lstm-nothing-hides"].number < 1  # of what counts as a bump
    assert found["lstm-nothing-hides"].arm == "holds"
    assert found["lstm-performs"].status == "not run"  # nor has it a published perplexity
    again = FIGURES["fig8"](Study("quick", tmp_path, fresh=False))
    assert again.results["coarse"].identical(outcome.results["coarse"])


@pytest.mark.parametrize(
    ("name", "profile", "found"),
    [
        ("lstm-small-ptb", "desk", 1.0),
        ("lstm-medium-ptb", "full", 115 / 82.7),
        ("lstm-medium-ptb", "desk", math.nan),
    ],
)
def test_a_whole_training_on_the_published_text_is_set_beside_the_published_number(
    name, profile, found
):
    run = SimpleNamespace(
        recipe=recipe(name, profile), stopped="", solved=True, test={"perplexity": (115.0,)}
    )
    assert beside_published(run) == pytest.approx(found, nan_ok=True)
