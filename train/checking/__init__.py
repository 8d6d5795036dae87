"""What is wrong with training files, found before a GPU is touched.

Layers, left may import right:
command > report > histogram, preview > survey > suspicions, twins, leaks > evaluation, findings, language, lengths, \
normal (then dataset, corpus, stellar_local)
"""
