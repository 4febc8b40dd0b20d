"""The reading side of a run: plain functions on run folders and on stored measurements; no request, no response."""
