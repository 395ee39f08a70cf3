"""The procedural world the embedded model knows: scenes as data, pictures, instructions, tasks."""
