"""Fakes with the real thing's manners: real processes, real files."""
