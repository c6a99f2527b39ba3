"""Studies: published measurements made again, at a desk's size, beside the published numbers."""
