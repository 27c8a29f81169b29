"""The paper's arithmetic, on arrays and without files."""
