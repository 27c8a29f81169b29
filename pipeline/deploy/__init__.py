"""Using a finished classifier: the Python API, prediction, serving, calibration and exports."""
