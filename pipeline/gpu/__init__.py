"""Memory: pressure, plans, learned peaks, the shelf of models, recovery from running out."""
