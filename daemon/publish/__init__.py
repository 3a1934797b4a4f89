"""Publish: repeatable steps that bring results out and originals away."""
