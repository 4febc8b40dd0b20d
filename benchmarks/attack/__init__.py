"""Attack the whole system as its user starts it, while somebody honest uses it
(docs/reliability.md, "The attack")."""
