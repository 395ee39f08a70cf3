"""Everything that makes and judges models: a drawn world, training pieces, recipes, judge, benchmark.

Runs beside `kontext_core` and is not part of what a node needs.
"""
