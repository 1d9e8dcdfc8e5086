"""Adds the presets in configs/ to the package (ser_jax.configs); the rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ser_jax*"]), "ser_jax.configs", "ser_jax.configs.tuned"],
    package_dir={"ser_jax.configs": "configs"},
)
