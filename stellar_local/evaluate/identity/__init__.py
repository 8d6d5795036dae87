"""Whether a model knows who it is: questions held out from its training, put with and without the system line, judged.

Layers, left may import right:
command > knowing > questions > judge (then stellar_local.evaluate's own)
"""
