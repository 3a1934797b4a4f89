"""Tests; each one says in a sentence what it promises."""
