"""The GPU worker's package: recipes, stages and engines; it never knows that there is a queue."""
