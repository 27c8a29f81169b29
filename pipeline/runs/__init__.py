"""A run: its graph, its files and settings."""
