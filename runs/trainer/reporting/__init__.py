"""What the training program tells: progress, metrics.jsonl, the model card."""
