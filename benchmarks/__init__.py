"""Benchmarks of the product on the machine at hand; `python -m benchmarks --help`."""
