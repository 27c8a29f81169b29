"""Templates, styles and scripts of the pages, and the HTTP server of `ccd review` and `ccd serve`."""
