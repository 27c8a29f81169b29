"""Classifier-guided CLIP distillation: unlabelled photos and class names in, a multi-label classifier out."""
