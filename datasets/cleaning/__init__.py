"""Making new versions of datasets: recipes, their operations, dry runs."""
