"""What the recipes in `training/` share: the procedural world, losses, optimizers, checkpoints."""
