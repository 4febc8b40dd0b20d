"""What a model can do: generated answers and their scores."""
