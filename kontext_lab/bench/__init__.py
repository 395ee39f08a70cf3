"""How good a model is: held-out cases, probes, tables, a page of pictures."""
