"""Our additions to the paper: calibration of scores, and thresholds."""
