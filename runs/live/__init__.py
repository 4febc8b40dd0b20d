"""Live streams (server-sent events)."""
