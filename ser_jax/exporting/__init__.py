"""Trained models for programs that do not have this package: one StableHLO program, or weights with a model card."""
