"""What people correct: the queue of images, the review page, corrections and their import."""
