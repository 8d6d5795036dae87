"""Rows that teach a model who it is, questions that find out whether it knows, and a judge of its answers.

Layers, left may import right:
command > rows > phrasings, overlap > scoring (then train.likeness, train.corpus, stellar_local)
"""
