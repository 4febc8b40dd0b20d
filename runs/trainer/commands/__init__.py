"""The commands of the training program, one module each, and what they share."""
