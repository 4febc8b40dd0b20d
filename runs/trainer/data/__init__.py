"""From a dataset file to batches: examples, chat templates, tokens, packing, the plan of an
epoch."""
