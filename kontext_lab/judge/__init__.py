"""Says whether a picture is the right answer, from the picture alone."""
