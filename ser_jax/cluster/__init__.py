"""Training on many hosts: how processes find each other, and which trains what."""
