"""FLUX.1's two text encoders: tokenizers, prompt weights, the pair, and loading it."""
