"""The `triton` backend: CUDA devices (docs/gpu.md)."""
