"""What lies between two points of a network's parameter space.

>>> import ravine, torch
>>> model = torch.nn.Linear(2, 1)
>>> squares = ravine.supervised(torch.nn.functional.mse_loss)
>>> J = ravine.Objective(model, squares, (torch.ones(3, 2), torch.zeros(3, 1)))
>>> line = ravine.Line({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)},
...                    {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
>>> curve = ravine.evaluate(J, along=line, at=[0.0, 0.5, 1.0])
>>> [float(value) for value in curve["loss"].sel(split="data")]  # (3 alpha)^2
[0.0, 2.25, 9.0]
"""

import lazy_loader

# The names stand in __init__.pyi, and are looked up on first
# use: a result opens where there is no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
