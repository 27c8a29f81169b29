"""The machine: processes, devices, precision, memory, and what a person sees while it works."""
