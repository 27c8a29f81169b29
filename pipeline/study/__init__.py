"""Ablations: plans of settings, run and compared."""
