"""Points of parameter space: checkpoints read, slices through them, and the runs that lead from one to another."""
