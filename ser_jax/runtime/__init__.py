"""Operating system and files; knows nothing of speech."""
