"""Turn instruction triples into a LoRA adapter with Transformers and PEFT.

Layers, left may import right: cli > run > model > dataset > corpus > config (then stellar_local)
"""
