"""Image towers of CLIP models: for the teachers, and as backbones of a classifier."""
