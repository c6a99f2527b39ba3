"""Measuring: objectives evaluated along slices, as labelled results. Where torch and labelled arrays meet."""
