"""The operators' cockpit: runs, what is kept about them, the queue. Importing it registers
everything."""

from runs.admin import owners, queue, records, runs

__all__ = ["owners", "queue", "records", "runs"]
