"""One file for each external library; the only place that imports it."""
