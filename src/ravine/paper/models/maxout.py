"""The maxout network of Figures 1 and 5: 784–240×5–240×5–10, 1,233,610 parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ravine.paper.models.layers import Layer, Network

#: pylearn2 @ af81e5c, ``scripts/papers/maxout/mnist_pi.yaml``: irange .005, max_col_norm 1.9365,
#: pixels kept with 0.8 and not rescaled, hidden units kept with 0.5 and doubled.
MAXOUT: Final = Network(
    inputs=784,
    activation="maxout",
    layers=(
        Layer(240, pieces=5, init=0.005, cap=1.9365, keep=0.8, scale=1.0),
        Layer(240, pieces=5, init=0.005, cap=1.9365, keep=0.5, scale=2.0),
        Layer(10, init=0.005, cap=1.9365, keep=0.5, scale=2.0),
    ),
)

#: Without dropout, of which the paper says that it overfits (section 3).
MAXOUT_PLAIN: Final = replace(
    MAXOUT, layers=tuple(replace(layer, keep=1.0, scale=1.0) for layer in MAXOUT.layers)
)
