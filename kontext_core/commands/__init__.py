"""The sub-commands of `python -m kontext_core`: each adds its options, and runs to a text to print."""
