"""What is wrong with training files, found before a GPU is touched.

Layers, left may import right:
command > report > histogram, preview > survey > suspicions > findings, lengths (then likeness, dataset,
corpus, stellar_local)
"""
