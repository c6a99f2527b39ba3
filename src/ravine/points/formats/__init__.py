"""Formats: one reader per kind of file, each giving named tensors."""
