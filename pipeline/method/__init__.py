"""The paper's arithmetic, on arrays and without files."""

FORMULAS = {
    "probabilities": 2,
    "labels": 1,
    "losses": 2,
    "cam": 2,
    "cells": 1,
    "crops": 1,
    "boost": 1,
    "snapping": 1,
    "calibration": 3,
    "thresholds": 3,
    "two_heads": 4,
    "epoch_choice": 1,
    "ranking": 1,
    "cdul": 1,
    "tai_dpt": 1,
    "tagclip": 1,
    "sparc": 1,
    "piaa": 1,
    "frolic": 1,
    "metrics": 2,
    "intervals": 1,
}
"""Version of each module of this folder, and of `metrics` and `intervals` in `pipeline.evaluation`; part of the fingerprint of what it decides.

Raise it when the module's results change. `tests/test_formulas.py` fails until a change of its code is recorded.
"""
