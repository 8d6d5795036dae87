"""Rows that teach a model who it is, and questions that find out whether it knows.

Layers, left may import right:
command > rows > phrasings, overlap (then train.likeness, train.corpus, stellar_local)
"""
