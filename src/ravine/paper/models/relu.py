"""The rectifier network of Figures 2 (right) and 3: 784–898–1532–10, 2,097,528 parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ravine.paper.models.layers import Layer, Network

#: pylearn2 @ af81e5c, ``scripts/papers/dropout/mnist_valid.yaml``. The last matrix starts at 0
#: (sparse_init 0), so that J is ln 10 exactly at the start.
RELU: Final = Network(
    inputs=784,
    activation="relu",
    layers=(
        Layer(898, init=0.00891030471479, cap=4.378017, keep=0.8, scale=1.25),
        Layer(1532, init=0.0575059125935, cap=2.970242, keep=0.5, scale=2.0),
        Layer(10, init=0.0, cap=4.626974, keep=0.5, scale=2.0),
    ),
)

#: Without dropout, for Figure 3 (the paper, section 3: "we did not use dropout").
RELU_PLAIN: Final = replace(
    RELU, layers=tuple(replace(layer, keep=1.0, scale=1.0) for layer in RELU.layers)
)
