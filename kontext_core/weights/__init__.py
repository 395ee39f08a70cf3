"""Weights files: opening them, recognising what they hold, and filling the networks."""
