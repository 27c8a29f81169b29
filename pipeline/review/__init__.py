"""Corrections of labels by people: the queue of images, the review page, and the import of corrections."""
