"""Two datasets side by side: what differs, and what both contain."""
