"""The doctor: what is wrong with a release, before anything is trained on it."""
