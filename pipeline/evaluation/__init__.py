"""What needs ground truth: figures and tables."""
