"""Points of parameter space: checkpoints, slices through them, and the runs between them."""
