"""Classifier-guided CLIP distillation: unlabelled photos and class names in, a multi-label classifier out."""

from pipeline.classifier.api import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]
