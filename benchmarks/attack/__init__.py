"""Attack the whole system as its user starts it, while an honest user uses it
(docs/reliability.md, "The attack")."""
