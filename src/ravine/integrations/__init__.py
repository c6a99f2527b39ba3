"""Recorders for frameworks that own the training loop.

Each module needs its framework, and is imported on demand only.

``ravine.integrations.lightning.LightningRecorder`` and
``ravine.integrations.transformers.TrainerRecorder``.
"""
