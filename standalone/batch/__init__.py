"""Many rows through one workflow: what rows, workflows, servers and the record of a batch are."""
