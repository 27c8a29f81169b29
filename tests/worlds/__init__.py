"""Small made-up photos, networks, teachers, runs and test sets, always the same, for tests and benchmarks."""
