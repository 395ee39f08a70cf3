"""Benchmarks of image editing made by others: their cases, our runner, scorers by name, reports."""
