"""One module a stage: a pure function and a thin `run` that reads, calls and writes."""
