"""A run to one HTML page that opens from disk: content.py and gallery.py gather, page.py renders."""
