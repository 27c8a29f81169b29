"""What we added to the paper: calibration of scores and thresholds. On arrays and without files."""
