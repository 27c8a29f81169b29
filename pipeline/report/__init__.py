"""What people look at: the report of a run, the comparison of two, tables of any file."""
