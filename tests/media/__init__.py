"""Tests of pipeline/media."""
