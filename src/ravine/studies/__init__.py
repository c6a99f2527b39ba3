"""Studies: published measurements made again, at sizes that a desk can do, each number beside the published one."""
