"""One file for each stage of a recipe; a stage asks its engines in order and says which one ran."""
