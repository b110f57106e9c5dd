"""Looks at data that make no rows: `check`, curves, calibration."""
