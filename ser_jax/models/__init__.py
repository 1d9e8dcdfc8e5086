"""The three systems as Flax modules, and the pure functions they are made of."""
