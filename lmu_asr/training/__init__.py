"""Training loop, checkpoints and launchers."""
