"""The sigmoid network of Figure 2 (left): the rectifier network with its activation replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ravine.paper.models.layers import Network
from ravine.paper.models.relu import RELU

#: The paper names no file for it; everything but the activation is kept, dropout included.
SIGMOID: Final[Network] = replace(RELU, activation="sigmoid")
