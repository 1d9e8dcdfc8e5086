"""What trained models say about recordings without labels: one at a time, or thousands from the command line."""
