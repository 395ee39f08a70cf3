"""Rows of pictures, prompts and seeds: from tables, folders and text, and what they may be named."""
