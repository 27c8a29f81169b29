"""Adapters: each module reads one kind of dataset into a `Dataset`."""

from pipeline.datasets.dataset import Dataset, Objects

__all__ = ["Dataset", "Objects"]
