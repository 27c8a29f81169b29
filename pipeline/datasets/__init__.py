"""Adapters: each module turns one dataset on disk into a `Dataset`."""

from pipeline.datasets.dataset import Dataset, Objects

__all__ = ["Dataset", "Objects"]
