"""Many sources of instruction triples → one training file and one validation file, by a recipe.

Layers, left may import right:
command > report > pipeline > shares, split, sifting > rows > recipe > tables (then likeness, corpus and stellar_local)
"""
