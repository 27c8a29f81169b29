"""Pages: templates, styles and scripts, rendered to files that fetch nothing."""
