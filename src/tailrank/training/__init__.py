"""Mini-batch training: optimisers, checkpoints and the loop."""
