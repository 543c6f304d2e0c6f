"""Training: data, what a training is, its loop, its checkpoints; and groups of networks trained as one."""
