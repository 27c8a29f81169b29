"""The classifier: network, views, training, inference and the Python API."""
