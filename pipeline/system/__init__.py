"""Processes, devices, precision, memory, progress, downloads, files and errors."""
