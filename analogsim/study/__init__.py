"""Data, training, checkpoints and studies."""
