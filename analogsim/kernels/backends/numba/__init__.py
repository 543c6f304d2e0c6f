"""The `numba` backend: float32 on the CPU."""
