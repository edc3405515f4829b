"""Training: objectives, the loop, checkpoints and progress."""
