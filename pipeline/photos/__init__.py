"""Pixels: decoding, caching, prefetching, augmenting and drawing photos."""
