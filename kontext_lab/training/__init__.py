"""What the recipes share: batches, losses, optimizers, checkpoints."""
