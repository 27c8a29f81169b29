"""Classifier-guided CLIP distillation: unlabelled photos and class names in, a multi-label classifier out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import Run, fit
    from pipeline.deploy.classifier import Classifier, Prediction
    from pipeline.evaluation.read import read_with_warning as read
    from pipeline.system.errors import PipelineError

__all__ = ["Classifier", "PipelineError", "Prediction", "Run", "fit", "read"]

_PLACES = {
    "Classifier": ("pipeline.deploy.classifier", "Classifier"),
    "PipelineError": ("pipeline.system.errors", "PipelineError"),
    "Prediction": ("pipeline.deploy.classifier", "Prediction"),
    "Run": ("pipeline.api", "Run"),
    "fit": ("pipeline.api", "fit"),
    "read": ("pipeline.evaluation.read", "read_with_warning"),
}


def __getattr__(name: str) -> Any:
    """The Python API, imported at first use: the command line needs none of it."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
