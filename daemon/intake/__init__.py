"""Intake: how a file on a share becomes a settled file."""
