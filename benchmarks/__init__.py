"""Benchmarks and results; each script is run as `python -m benchmarks.NAME`, all of them by `make bench`."""
