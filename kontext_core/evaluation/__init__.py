"""How good a picture is: metrics, and probes of the embedded model on held-out scenes."""
