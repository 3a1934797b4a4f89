"""Signals and pictures in plain numpy: no engine, no disk."""
