"""Merging: one point made of several."""
