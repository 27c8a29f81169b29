"""Classifier-guided CLIP distillation: unlabelled photos and class names in, a multi-label classifier out."""

from typing import Any

__all__ = ["Classifier", "Prediction", "read"]


def __getattr__(name: str) -> Any:
    """The Python API, imported at first use: the command line needs none of it."""
    if name in ("Classifier", "Prediction"):
        from pipeline.deploy import classifier as api

        return getattr(api, name)
    if name == "read":
        from pipeline.evaluation.read import read_with_warning

        return read_with_warning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
