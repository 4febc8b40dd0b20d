"""The training loop, shared by all objectives: steps, optimizer, checkpoints, stop requests,
devices."""
