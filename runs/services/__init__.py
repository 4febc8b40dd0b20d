"""Writes: what people and workers may ask for.

Each function is atomic, keyword-only and takes ``by``; pages, API, admin, tasks and commands call
the same ones. Processes and the folders of running trainings belong to ``runs.execution``, one
layer above.
"""
