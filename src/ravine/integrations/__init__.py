"""Recorders for frameworks that own the training loop; each module is imported only on demand and needs its framework.

``ravine.integrations.lightning.LightningRecorder`` and
``ravine.integrations.transformers.TrainerRecorder``.
"""
