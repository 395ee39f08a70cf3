"""How the embedded model was made, part by part; each module is a command."""
