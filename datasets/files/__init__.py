"""Bytes: request bodies, compressed files, Parquet, and the folders of imports."""
