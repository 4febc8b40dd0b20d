"""New datasets from files, the Hub and recipes, by processes of their own."""
