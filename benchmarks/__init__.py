"""Benchmarks and results; each script is run as `python -m benchmarks.NAME`, most of them by `make bench`."""
