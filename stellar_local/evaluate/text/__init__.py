"""Free answers compared with reference answers: instruction triples that no model was trained on, answered and scored.

Layers, left may import right:
command > answering > triples (then stellar_local.evaluate's own)
"""
