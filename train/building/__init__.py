"""Many sources of instruction triples → one training file and one validation file, by a recipe.

Layers, left may import right:
command > report > pipeline > shares, split, duplicates, overlap > similar, evaluation, rows >
recipe, showing > tables, language, normal (then corpus and stellar_local)
"""
