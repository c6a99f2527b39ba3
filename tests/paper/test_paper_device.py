"""The trainer anywhere: devices, precision, budgets, leanness, and what is carried away."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file
from torch.nn import functional as F

import ravine
from ravine import cli
from ravine.paper import claims, device, export, publish, recipes
from ravine.paper.claims.runs import epochs_in_the_flat, learnt
from ravine.paper.data import load
from ravine.paper.figures import FIGURES, OutOfTime, Study, mpdbm_measures, trainings
from ravine.paper.figures.study import is_whole
from ravine.paper.models import CONV, Layer, Network
from ravine.paper.recipe import Momentum, PerUpdate, Phase, Recipe, canonical
from ravine.paper.training import Budget, Deadline, Run, Training, restart, train
from sketches import sketched  # noqa: F401  pytest's way to share fixtures

CPU = torch.device("cpu")
SMALL = Network(
    64,
    "maxout",
    (
        Layer(8, pieces=3, init=0.3, cap=0.9, keep=0.8, scale=1.0),
        Layer(10, init=0.3, cap=0.7, keep=0.5, scale=2.0),
    ),
)


def small(epochs: int = 4, second: int | None = None, **changes) -> Recipe:
    """Seven updates an epoch, the last one of ten examples; with dropout."""
    rate, momentum = PerUpdate(0.1, 1.001, 1e-6), Momentum(0.5, 0.9, 4)
    phases = (Phase(rate, momentum, patience=100, epochs=epochs),)
    if second is not None:
        phases += (Phase(rate, momentum, patience=None, epochs=second),)
    return replace(Recipe("small", "quick", "digits", 310, 100, SMALL, 50, phases), **changes)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


class Ticking:
    """A clock that is one second on whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def within(looks: int) -> Deadline:
    """A deadline that has come after so many looks at the clock."""
    return Deadline(looks, "the budget of a test", Ticking())


def same(one, other) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


class TestDevices:
    @pytest.mark.parametrize("name", ["cuda:77", "abacus", "meta"])
    def test_what_cannot_compute_here_is_refused_by_name(self, name):
        with pytest.raises(ravine.InputError, match=name.partition(":")[0]):
            device.usable(name)

    def test_drawing_is_by_its_seed_and_leaves_the_stream_alone(self):
        before = torch.get_rng_state()
        with device.drawing(5):
            drawn = torch.rand(3)
        assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_devices_stream_is_kept_by_its_own_module(self, monkeypatch):
        """No such device is here: its module is replaced by one that counts."""
        held = SimpleNamespace(state=torch.tensor([1, 2], dtype=torch.uint8))

        def set_rng_state(state, device):
            assert device.type == "cuda"
            held.state = state

        module = SimpleNamespace(get_rng_state=lambda _: held.state, set_rng_state=set_rng_state)
        monkeypatch.setattr(torch, "get_device_module", lambda _: module)
        cuda, first = torch.device("cuda"), held.state
        with device.preserved(cuda):
            device.set_random_state(cuda, torch.tensor([7], dtype=torch.uint8))
            assert device.random_state(cuda).tolist() == [7]
        assert held.state is first

    def test_rows_are_cut_alike_whether_or_not_it_is_asked_first(self):
        """On a GPU all rows are multiplied; a factor of 1 keeps the bits of those under the cap."""
        rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
        factor = (2.0 / torch.linalg.vector_norm(rows, dim=1)).clamp(max=1)
        multiplied = rows * factor[:, None]
        within = factor == 1
        assert 0 < int(within.sum()) < 50
        assert torch.equal(multiplied[within], rows[within])

    def test_a_state_of_another_kind_of_device_is_refused(self, tmp_path):
        job = small(epochs=2)
        train(job, tmp_path, until=within(0))
        folder = tmp_path / job.folder
        begun = Training(job, load("digits"), folder)
        begun.state.generator = "cuda"
        begun.save()
        with pytest.raises(ravine.InputError, match="begun on a device of type 'cuda'"):
            train(job, tmp_path)

    def test_the_run_says_where_it_was(self, tmp_path):
        run = train(small(epochs=1), tmp_path)
        assert (run.device, run.device_type, run.precision) == ("the CPU", "cpu", "")

    def test_kernels_on_a_card_are_saved_as_on_the_cpu(self, digits, tmp_path):
        """Channels last is a layout; what is written has the usual one, and comes back to any."""
        quick = recipes.recipe("conv-cifar10", "quick")
        job = Training(replace(quick, train=20, valid=10), digits, tmp_path)
        kernels = job.params["layer1.weight"]
        kernels.data = kernels.data.contiguous(memory_format=torch.channels_last)
        assert not kernels.is_contiguous()
        job.epoch()
        job.save()
        again = Training(job.recipe, digits, tmp_path)
        assert torch.equal(again.params["layer1.weight"], kernels)
        assert torch.equal(again.velocity["layer1.weight"], job.velocity["layer1.weight"])


class TestPrecision:
    def test_tf32_is_off_unless_it_is_asked_for_and_the_setting_comes_back(self):
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        for precision, expected in (
            ("float32", ("highest", False)),
            ("bf16", ("highest", False)),
            ("tf32", ("high", True)),
        ):
            with device.computing(precision, CPU):
                seen = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
                rounded = torch.is_autocast_enabled("cpu")
            assert seen == expected
            assert rounded == (precision == "bf16")
        after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert after == before

    def test_float32_leaves_a_callers_autocast(self):
        with torch.autocast("cpu", torch.bfloat16), device.computing("float32", CPU):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == torch.float32

    def test_bf16_trains_like_a_loop_with_an_autocast_for_each_update(self, digits, tmp_path):
        """One autocast around all updates would go on with parameters that it rounded first."""
        network = Network(64, "relu", (Layer(10, init=0.1, cap=1e9, keep=1.0, scale=1.0),))
        phase = Phase(PerUpdate(0.5, 1.0, 0.0), Momentum(0.0, 0.0, 1), patience=5, epochs=1)
        job = Training(small(network=network, phases=(phase,), precision="bf16"), digits, tmp_path)
        mirror = network.build(0)
        inputs, labels = digits["train"]
        order = torch.Generator().set_state(job.order.get_state())
        job.epoch()
        for batch in torch.randperm(310, generator=order).split(50):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(mirror(inputs[batch]), labels[batch])
            slopes = torch.autograd.grad(loss, list(mirror.parameters()))
            with torch.no_grad():
                for tensor, slope in zip(mirror.parameters(), slopes, strict=True):
                    tensor.sub_(slope, alpha=0.5)
        for ours, theirs in zip(job.model.parameters(), mirror.parameters(), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)

    def test_what_it_changes_of_j_is_kept(self, tmp_path):
        run = train(small(epochs=2, precision="bf16"), tmp_path)
        rounded, exact = run.history.attrs["precision_loss"]
        seen = run.history["loss"].sel(split="valid").values
        at = run.history["step"].values == run.best_step
        assert rounded == float(seen[at][0])  # monitored in the precision of training
        assert rounded != exact
        assert rounded == pytest.approx(exact, rel=0.02)
        parts = load("digits")["train"]
        J = ravine.Objective(
            SMALL.build(0),
            ravine.supervised(F.cross_entropy),
            tuple(part[310:410] for part in parts),
        )
        assert J(run.solution)["data"] == pytest.approx(exact, rel=1e-6)
        assert run.precision.startswith("bfloat16 autocast, by which the validation examples' J")

    def test_a_recipe_in_another_precision_is_another_and_the_default_is_the_old_one(self):
        one = small()
        assert "precision" not in canonical(one)
        assert len({one.hash, replace(one, precision="bf16").hash, one.lean.hash}) == 3
        assert one.lean.plain == replace(one, precision="tf32").plain == one
        with pytest.raises(ravine.InputError, match=r"one of float32, tf32, bf16; got 'int4'"):
            small(precision="int4")
        with pytest.raises(ravine.InputError, match="watch_train of small must be .* got 0"):
            small(phases=(replace(one.phases[0], watch_train=0),))


class TestBudget:
    def test_trainings_share_their_part_equally(self):
        now = [0.0]
        budget = Budget(10, trainings=3, share=0.5, clock=lambda: now[0])
        assert budget.training().left == 100
        now[0] = 20  # it was done after 20 seconds
        assert budget.training().left == 140
        now[0] = 300
        assert budget.training().left == 0
        assert budget.whole.left == 300

    @pytest.mark.parametrize(
        ("minutes", "share"), [(0, 0.6), (-1, 0.6), (float("nan"), 0.6), (1, 1.5)]
    )
    def test_what_is_no_time_is_refused(self, minutes, share):
        with pytest.raises(ravine.InputError, match="must be"):
            Budget(minutes, share=share)

    def test_one_epoch_is_trained_in_any_case(self, tmp_path):
        run = train(small(), tmp_path, until=within(0))
        assert run.stopped == "the budget of a test was spent after 1 epoch of phase 1"
        assert run.history["epoch"].values.tolist() == [0, 1]
        assert not run.done
        assert run.there

    @pytest.mark.parametrize(
        ("looks", "lean"), [((12,), False), ((22,), True), ((0, 0, 14, 0), True)]
    )
    def test_stopped_and_resumed_gives_the_bits_of_one_that_was_not(self, looks, lean, tmp_path):
        job = small(epochs=4, second=3)
        job = job.lean if lean else job
        whole = train(job, tmp_path / "whole")
        stops = [train(job, tmp_path / "cut", until=within(count)).stopped for count in looks]
        assert all(stops)
        resumed = train(job, tmp_path / "cut")
        assert resumed.done
        assert same(resumed.solution, whole.solution)
        assert same(resumed.final, whole.final)
        assert resumed.trajectory.snapshots == whole.trajectory.snapshots
        assert resumed.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))

    def test_a_stopped_one_has_the_best_of_its_epochs_and_its_test(self, tmp_path):
        job = small(epochs=6)
        run = train(job, tmp_path / "cut", until=within(14))
        epochs = int(run.history["epoch"].values[-1])
        assert 1 < epochs < 6
        whole = train(small(epochs=epochs), tmp_path / "whole")
        assert same(run.solution, whole.solution)
        assert run.test == whole.test
        assert run.best_step == whole.best_step
        assert run.identity == f"{job.hash} stopped in phase 1 at {7 * epochs}"

    def test_stopped_in_phase_2_its_outcome_so_far_is_kept(self, tmp_path):
        now = [0.0]

        def say(line):
            now[0] += 100 * line.startswith("phase 1 is over")

        until = Deadline(50, "the budget of a test", lambda: now[0])
        run = train(small(epochs=4, second=30), tmp_path, say=say, until=until)
        assert "of phase 2" in run.stopped
        assert (run.done, run.solved) == (False, True)
        assert run.final.exists()
        assert len(run.test_errors) == 2

    def test_a_claim_about_the_end_is_not_run_and_says_why(self):
        found = [claim for claim in claims.CLAIMS if claim.ends]
        assert {"maxout-94", "lstm-performs", "mpdbm-performs"} <= {claim.name for claim in found}
        early = SimpleNamespace(
            runs=(SimpleNamespace(stopped="the time was spent"),), seeds=(0,), is_scaled=True
        )
        for claim in found:
            finding = claim.judged(early, "full")
            assert (finding.status, finding.arm) == ("not run", None)
            assert finding.about.endswith("that was stopped: the time was spent")
            assert "the time was spent" in claims.as_markdown([finding])
            assert "the time was spent" in claims.as_json([finding])

    def test_a_stopped_training_decides_nothing_about_the_papers_own(self, tmp_path, monkeypatch):
        monkeypatch.setattr(recipes, "recipe", lambda *_: small(profile="full"))
        stopped = train(small(profile="full").lean, tmp_path, until=within(0))
        assert not stopped.solved
        assert not is_whole(stopped)
        assert is_whole(train(stopped.recipe, tmp_path))

    def test_what_there_is_no_time_to_measure_is_not_begun(self, tmp_path):
        now = [0.0]
        study = Study("quick", tmp_path, budget=Budget(1, clock=lambda: now[0]))

        def measure():
            now[0] += 40
            return curve()

        study.kept("one", (1,), measure)
        study.took[:] = [40.0]
        with pytest.raises(OutOfTime, match="1 minutes does not leave the time to measure two"):
            study.kept("two", (2,), measure)
        assert study.kept("one", (1,), measure).sizes["alpha"] == 3  # what is there is there

    def test_a_stopped_training_is_measured_as_it_is_where_training_has_no_share(self, tmp_path):
        study = Study("quick", tmp_path)
        job = study.run_of("maxout-mnist")
        stopped = train(job.recipe, tmp_path, until=within(0))
        found = replace(study, budget=Budget(1, share=0.0)).trained("maxout-mnist")
        assert found.identity == stopped.identity

    @pytest.mark.parametrize("name", FIGURES)
    def test_the_trainings_of_each_figure_are_known_before(self, name):
        """What a figure asks for first is the first that is listed; it asks for nothing else."""
        asked = []

        class Asked(Study):
            def trained(self, name, seed=0):
                asked.append((name, seed))
                return super().trained(name, seed)

        with pytest.raises(Exception, match="quick"):
            FIGURES[name](Asked("quick", folder(), fresh=False))
        assert tuple(asked) == trainings(name, "quick")[: len(asked)]
        assert bool(asked) == bool(trainings(name, "quick"))


def folder():
    from pathlib import Path

    return Path("nowhere")


def curve():
    """A measured line of three points."""
    model = torch.nn.Linear(1, 1, bias=False)
    ends = {"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[1.0]])}
    J = ravine.Objective(model, ravine.supervised(F.mse_loss), (torch.ones(4, 1), torch.ones(4, 1)))
    return ravine.evaluate(J, along=ravine.Line(*ends), at=[0.0, 0.5, 1.0], progress=False)


class TestLeanness:
    def test_the_steps_are_the_same(self, tmp_path):
        job = small(epochs=12, second=2)
        plain, lean = train(job, tmp_path), train(job.lean, tmp_path)
        assert plain.folder != lean.folder
        assert same(plain.solution, lean.solution)
        assert same(plain.final, lean.final)
        assert plain.test == lean.test

    def test_training_examples_are_watched_at_first_then_seldom_and_at_the_solution(self, tmp_path):
        job = small(epochs=12, second=2)
        plain, lean = train(job, tmp_path).history, train(job.lean, tmp_path).history
        best = lean.attrs["best_step"]
        for name in ("objective", "loss", "error"):
            whole, few = plain[name], lean[name]
            np.testing.assert_array_equal(whole.sel(split="valid"), few.sel(split="valid"))
            seen = np.isfinite(few.sel(split="train").values)
            first = few["phase"].values == 1
            epochs = few["epoch"].values
            solution = int(epochs[first][few["step"].values[first] == best][0])
            assert set(epochs[first & seen]) == {*range(11), solution}
            np.testing.assert_array_equal(
                whole.sel(split="train").values[seen], few.sel(split="train").values[seen]
            )

    def test_snapshots_are_dense_in_the_first_epoch_and_end_with_the_last(self, tmp_path):
        steps = train(small(epochs=12).lean, tmp_path).trajectory.steps
        assert steps[:8] == (0, 1, 2, 3, 4, 5, 6, 8)
        assert steps[-1] == 12 * 7
        assert len(steps) < 22

    def test_the_solution_is_among_the_snapshots_however_few(self, tmp_path):
        """A line ends there, and a random walk to compare with is one between two snapshots."""
        stopped = train(small(epochs=12).lean, tmp_path / "cut", until=within(14))
        whole = train(small(epochs=12).lean, tmp_path / "whole")
        for run in (stopped, whole):
            assert run.best_step in run.trajectory.steps
            solution, snapshot = load_file(run.solution), run.trajectory.at(step=run.best_step)
            assert all(torch.equal(solution[name], snapshot[name]) for name in solution)

    def test_a_share_of_learning_that_was_not_watched_is_not_run(self, tmp_path):
        run = train(small(epochs=12).lean, tmp_path)
        outcome = SimpleNamespace(runs=(run,))
        assert learnt(outcome, 11).status == "not run"
        assert 0 < learnt(outcome, 5).number <= 1

    def test_epochs_that_were_not_watched_count_as_what_lies_between_their_neighbours(self):
        epochs = np.arange(21)
        objective = np.where(epochs < 5, 1.0, 0.0)
        objective[11:20] = np.nan
        split = np.stack([objective, objective], axis=1)
        history = xr.Dataset(
            {"objective": (("record", "split"), split)},
            {"split": ["train", "valid"], "phase": ("record", np.ones(21))},
        )
        run = SimpleNamespace(history=history, recipe=SimpleNamespace(is_lean=True))
        assert epochs_in_the_flat(SimpleNamespace(runs=(run,))).number == 16 / 20

    def test_its_learning_curve_is_drawn_through_what_was_watched(self, tmp_path):
        from ravine.paper.figures.parts import learning_curve

        run = train(small(epochs=12).lean, tmp_path)
        train_curve, valid_curve = learning_curve(run).layers[1:]
        assert np.isfinite(train_curve.y).all()
        assert len(train_curve.y) < len(valid_curve.y) == 13

    def test_a_moment_is_an_epoch_or_an_update(self, tmp_path):
        run = train(small(epochs=2).lean, tmp_path)
        assert [run.moment(step) for step in (0, 5, 14)] == ["epoch 0", "update 5", "epoch 2"]

    def test_a_lean_figure_has_a_folder_of_its_own(self):
        variants = {
            Study("full", folder(), lean=lean, precision=precision).variant
            for lean in (False, True)
            for precision in ("float32", "tf32", "bf16")
        }
        assert len(variants) == 6
        assert "full" in variants
        assert "full-lean-bf16" in variants


class TestExport:
    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        """A study with one training and one measurement, cut into pieces of 1,000 bytes."""
        monkeypatch.setattr(export, "PIECE", 2_000)
        study = Study("quick", tmp_path / "out")
        run = train(small(epochs=1), study.out)
        study.runs[run.folder] = run
        study.kept("line", (1,), curve)
        return study, run

    def test_it_comes_back_where_it_was(self, made, tmp_path):
        study, run = made
        written = export.export(tmp_path / "x", study, [], ["a line"])
        size = run.solution.stat().st_size
        assert len(written) == 2 + -(-size // 2_000)
        assert (tmp_path / "x" / "log.txt").read_text() == "a line\n"
        (back,) = export.unpack(tmp_path / "x", tmp_path / "back")
        again = Run(run.recipe, back)
        assert same(again.solution, run.solution)
        assert again.history.identical(run.history)
        measured = study.measured[0].relative_to(study.out)
        assert ravine.open_result(tmp_path / "back" / measured).sizes["alpha"] == 3
        restart(again)
        assert same(again.start, run.start)

    def test_what_does_not_fit_is_left_out_and_the_log_says_so(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "PIECES", 2)
        study, run = made
        written = export.export(tmp_path / "x", study, [], [])
        assert [path.name for path in written] == ["results.zip", "log.txt"]
        assert f"θ_f of {run.recipe.folder} is left out" in written[-1].read_text()

    def test_a_damaged_piece_is_refused(self, made, tmp_path):
        study, _ = made
        _, piece, *_ = export.export(tmp_path / "x", study, [], [])
        content = piece.read_bytes()
        piece.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ravine.InputError, match="are damaged"):
            export.unpack(tmp_path / "x", tmp_path / "back")
        piece.unlink()
        with pytest.raises(ravine.InputError, match="lacks .* pieces"):
            export.unpack(tmp_path / "x", tmp_path / "back")
        with pytest.raises(ravine.InputError, match=r"lacks results.zip"):
            export.unpack(tmp_path, tmp_path / "back")

    @pytest.mark.parametrize(
        ("contents", "members", "said"),
        [
            ({"../there": {"pieces": ["a"], "sha256": ""}}, {}, "outside its folder"),
            ({"/there": {"pieces": ["a"], "sha256": ""}}, {}, "outside its folder"),
            ({"run": {"pieces": ["../a"], "sha256": ""}}, {}, "no run with its pieces"),
            ({"run": {"pieces": [], "sha256": ""}}, {}, "no run with its pieces"),
            ({"run": {"pieces": "a", "sha256": ""}}, {}, "no run with its pieces"),
            ({"run": 1.5}, {}, "cannot be unpacked"),
            ({}, {"../there": b"x"}, "outside its folder"),
            ({}, {"zeros": bytes(1 << 20)}, "unpacks to 1,048,"),
        ],
        ids=["up", "root", "a piece", "no pieces", "a word", "a number", "a member", "many bytes"],
    )
    def test_another_archive_is_refused_and_nothing_is_written(
        self, contents, members, said, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(export, "_MOST", 1 << 19)
        (tmp_path / "x").mkdir()
        with zipfile.ZipFile(tmp_path / "x" / "results.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("export.json", json.dumps(contents))
            for name, content in members.items():
                packed.writestr(name, content)
        with pytest.raises(ravine.InputError, match=said):
            export.unpack(tmp_path / "x", tmp_path / "back")
        assert not (tmp_path / "back").exists()
        assert not (tmp_path / "there").exists()

    @pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
    def test_a_damaged_history_is_one_sentence(self, made, engine):
        _, run = made
        file = run.folder / "history.nc"
        run.history.to_netcdf(file, engine=engine)
        whole = file.read_bytes()
        assert Run(run.recipe, run.folder).best_step == run.best_step
        for content in (
            whole[: len(whole) // 2],
            b"",
            b"CDF",
            whole[:30] + b"\xff" * 8 + whole[38:],
        ):
            file.write_bytes(content)
            with pytest.raises(ravine.InputError, match="history.nc"):
                _ = Run(run.recipe, run.folder).history

    def test_another_table_is_no_history(self, made):
        _, run = made
        run.history.drop_vars("step").to_netcdf(run.folder / "history.nc", engine="h5netcdf")
        with pytest.raises(ravine.InputError, match="is no history of a training: expected phase"):
            _ = Run(run.recipe, run.folder).history

    @pytest.mark.parametrize("name", ["conv-cifar10", "mpdbm-mnist", "lstm-medium-ptb"])
    def test_the_papers_own_networks_fit(self, name):
        network = recipes.recipe(name).network
        count = sum(tensor.numel() for tensor in network.build(0).parameters())
        assert -(-(4 * count + 10_000) // export.PIECE) <= export.PIECES
        assert network != CONV or count == 16_247_830

    def test_a_recipe_is_known_by_its_folder(self):
        for job in (
            recipes.recipe("conv-cifar10"),
            replace(recipes.recipe("conv-cifar10", "full", 3).lean, precision="bf16"),
            recipes.recipe("mpdbm-small-mnist", "desk").lean,
        ):
            assert recipes.named(job.folder) == job
        assert recipes.named("conv-cifar10-full-000000000000") is None


#: What a recipe of the profile full is replaced by: the same network's toy, smaller still.
def tiny(name, profile="full", seed=0):
    job = recipe_of(name, "quick", seed)
    sizes = {"digits": (120, 30), "babble": (2_100, 310)}[job.data]
    network = job.network
    if name.startswith("mpdbm"):
        network = replace(network, hidden=(12, 15), passes=4)
    phases = tuple(replace(phase, patience=None, epochs=4) for phase in job.phases)
    return replace(
        job, profile=profile, train=sizes[0], valid=sizes[1], network=network, phases=phases
    )


recipe_of = recipes.recipe


def command(*words):
    sys.argv = ["ravine", *words]
    try:
        cli.main()
    except SystemExit as done:
        return done.code
    return 0


class TestCommands:
    @pytest.mark.parametrize(
        ("figures", "precision"),
        [(("fig6",), "tf32"), (("fig7", "fig7-plane"), "bf16"), (("fig8",), "float32")],
    )
    @pytest.mark.long
    def test_the_full_commands_run_from_end_to_end(
        self, figures, precision, tmp_path, monkeypatch, capsys
    ):
        """Also where plotly is missing: there are pictures then, and no pages."""
        monkeypatch.setattr(recipes, "recipe", tiny)
        monkeypatch.setattr(publish, "find_spec", lambda name: None)
        monkeypatch.setitem(mpdbm_measures.EFFORT, "full", mpdbm_measures.Effort(10, 25, 100, 10))
        monkeypatch.chdir(tmp_path)
        full = ["--profile", "full", "--device", "cpu", "--lean", "--precision", precision]
        carried = ["--budget", "9", "--export", "carried"]
        assert command("paper", "run", *figures, *full, *carried, "--out", "o") == 0
        said = capsys.readouterr()
        assert f"on the CPU, torch {torch.__version__}" in said.err
        assert "plotly is not installed" in said.err
        variant = "full-lean" if precision == "float32" else f"full-lean-{precision}"
        for name in figures:
            assert f"{name}, profile {variant}: o/figures/{name}-{variant}" in said.out
            made = tmp_path / f"o/figures/{name}-{variant}"
            assert {path.suffix for path in made.iterdir()} == {".png", ".pdf", ".json"}
            outcome = json.loads((made / "outcome.json").read_text())
            assert outcome["command"].startswith(f"ravine paper run {name} --profile full --lean")
            assert set(outcome["trained_on"].values()) == {"the CPU"}
        with zipfile.ZipFile("carried/results.zip") as packed:
            names = packed.namelist()
        assert f"figures/{figures[0]}-{variant}/{figures[0]}.png" in names
        assert sum(name.startswith("measurements/") for name in names) >= 2
        assert "measured fig" in (tmp_path / "carried/log.txt").read_text()
        (piece,) = tmp_path.glob("carried/*.solution.1of1")
        assert command("paper", "unpack", "carried", "--out", "back") == 0
        assert command("paper", "check", "--out", "back", "--profile", "full") == 0
        rows = capsys.readouterr().out.splitlines()
        assert any(figures[0] in row and row.endswith(variant) for row in rows)

    def test_what_the_time_did_not_do_is_said_and_done_later(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(recipes, "recipe", tiny)
        monkeypatch.setattr(publish, "find_spec", lambda name: None)
        monkeypatch.chdir(tmp_path)
        words = ["paper", "run", "fig5", "--profile", "full", "--out", "o"]
        assert command(*words, "--budget", "0.00001", "--export", "x") == 2
        said = capsys.readouterr().err
        assert "stopped: the budget of 1e-05 minutes was spent after 1 epoch of phase 1" in said
        assert "fig5 is not finished" in said
        assert (tmp_path / "x/results.zip").exists()
        assert command(*words, "--budget", "9", "--share", "0") == 0
        said = capsys.readouterr()
        assert "phase 1 epoch" not in said.err  # it was not trained on
        outcome = json.loads((tmp_path / "o/figures/fig5-full/outcome.json").read_text())
        assert "after 1 epoch of phase 1" in next(iter(outcome["stopped"].values()))
        assert "Not trained to its end" in outcome["caption"]
        assert command(*words) == 0  # now to its end, and measured anew
        outcome = json.loads((tmp_path / "o/figures/fig5-full/outcome.json").read_text())
        assert outcome["stopped"] == {}

    def test_without_netcdf_nothing_is_begun(self, tmp_path, monkeypatch, capsys):
        from ravine.paper import cli as paper_cli

        monkeypatch.setattr(paper_cli, "find_spec", lambda name: None)
        monkeypatch.chdir(tmp_path)
        assert command("paper", "run", "fig5", "--profile", "quick") == 2
        assert "which need h5netcdf and h5py: pip install" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
