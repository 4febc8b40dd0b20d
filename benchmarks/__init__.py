"""Programs that measure and torment the system. Never imported by it."""
