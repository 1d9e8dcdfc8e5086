"""The commands of `ser-jax`: flags, and the function that each calls."""
