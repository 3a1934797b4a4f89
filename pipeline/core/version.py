"""The version, in the one place that the package build and the reports both read."""

__version__ = "0.1.0"
