"""One module per stage: a pure function and a thin `run` that reads, calls and writes.

`pipeline.runs.graph` lists them. `run` is called when there is work, with the run folder, the stage's options and the
origin that its artifacts are to carry; one that asks a network also gets the device, whether finished pieces of an
interrupted run are to be thrown away, and, of a classifier, where backbone features are kept.
"""
