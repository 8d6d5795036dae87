"""How likely texts are to a model, and how far its distributions are from a reference model's.

Layers: command > task > reference > passages
"""
