"""What an example is: its kinds, messages, limits, content hash and words."""
