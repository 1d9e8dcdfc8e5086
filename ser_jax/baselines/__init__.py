"""Systems without a train step, to compare the others with."""
