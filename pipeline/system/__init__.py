"""The machine: processes, devices, precision, memory, progress, downloads, files and errors."""
