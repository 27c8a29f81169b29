"""One module per stage: a pure function and a thin `run` that reads, calls and writes.

`pipeline.runs.graph` lists them. `run` gets the run folder, the stage's options and the provenance of its artifacts. A
stage with a network also gets the device, whether to discard partial results and, for a classifier, the feature store.
"""
