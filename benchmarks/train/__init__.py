"""Training speed and memory: our trainer, trl on PyTorch, and google-tunix's obvious pipeline, all
in one run.

``make bench-train MODEL=… DATA=…``; docs/performance.md has the figures on record.
"""
