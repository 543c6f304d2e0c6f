"""Constant ranges of converters: found by calibration, or learned by training."""
