"""Weights that stay packed: block formats, their decoding, and layers that multiply by them."""
