"""Writes: what people and programs may ask for. Each is atomic, keyword-only and takes ``by``."""
