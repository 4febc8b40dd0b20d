"""Examples in batches: staged in a file, stored, counted and indexed."""
