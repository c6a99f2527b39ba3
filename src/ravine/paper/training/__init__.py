"""The trainer: SGD as recipes say, on any device, resumed to the same bits, stopped by time."""

from ravine.paper.training.course import restart, train, train_together
from ravine.paper.training.deadline import Budget, Deadline
from ravine.paper.training.run import Run
from ravine.paper.training.trainer import Training

__all__ = ["Budget", "Deadline", "Run", "Training", "restart", "train", "train_together"]
