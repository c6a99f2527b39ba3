"""Objectives: a model, a per-example loss and data, measured at points as sums over examples."""
