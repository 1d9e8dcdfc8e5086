"""Predictions → scores, results.json and report.html."""
