"""What a training learns from a batch: the loss of each kind of training."""
