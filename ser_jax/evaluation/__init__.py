"""Numbers of finished trials: predictions, scores, intervals, calibration and comparisons."""
