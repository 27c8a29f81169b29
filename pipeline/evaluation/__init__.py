"""Figures and tables that need ground truth."""
