"""The files of a run: schemas, provenance, reading and writing, and what is up to date."""
