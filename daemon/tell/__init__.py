"""Tell: how people and programs learn what happens."""
