"""A trained run as one file: a StableHLO program, or weights with a model card."""
