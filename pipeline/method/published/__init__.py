"""Published label-free methods, as pure functions: scores of photos from a teacher's embeddings of photos, cells and tiles.

N photos, C classes, O background classes, J cells, T tiles, D embedding size, s logit scale.
"""
