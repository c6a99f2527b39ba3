"""Measuring: objectives evaluated along slices, as labelled results."""
