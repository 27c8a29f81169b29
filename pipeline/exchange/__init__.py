"""Label formats of other tools, and sets of labels to export or compare."""
