"""Dispatch: the link to the worker process and the rules of its supervision."""
