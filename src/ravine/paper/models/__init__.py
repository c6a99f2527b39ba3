"""The paper's networks, one per file."""

from __future__ import annotations

from ravine.paper.models.conv import CONV, ConvNetwork, Convolution
from ravine.paper.models.layers import Dropout, Layer, Maxout, Network
from ravine.paper.models.lstm import LARGE, LSTM, MEDIUM, SMALL
from ravine.paper.models.maxout import MAXOUT, MAXOUT_PLAIN
from ravine.paper.models.mpdbm import MPDBM, MPDBM_MNIST
from ravine.paper.models.relu import RELU, RELU_PLAIN
from ravine.paper.models.sigmoid import SIGMOID

__all__ = [
    "CONV",
    "LARGE",
    "LSTM",
    "MAXOUT",
    "MAXOUT_PLAIN",
    "MEDIUM",
    "MPDBM",
    "MPDBM_MNIST",
    "RELU",
    "RELU_PLAIN",
    "SIGMOID",
    "SMALL",
    "ConvNetwork",
    "Convolution",
    "Dropout",
    "Layer",
    "Maxout",
    "Network",
]
