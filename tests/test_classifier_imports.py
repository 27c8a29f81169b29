"""Modules that an import loads, seen in a new process."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import pipeline", {"torch"}),
        ("import pipeline.classifier.network", {"timm", "torchvision"}),
        ("import pipeline.deploy.classifier", {"timm", "torchvision"}),
    ],
)
def test_packages_that_take_seconds_wait_until_they_are_needed(statement, unwanted):
    code = f"import sys; {statement}; print([name for name in {sorted(unwanted)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_python_api_is_found_in_the_package_and_nothing_else_is():
    import pipeline
    from pipeline.deploy import classifier as api

    assert pipeline.Classifier is api.Classifier and pipeline.Prediction is api.Prediction
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        _ = pipeline.Clasifier
