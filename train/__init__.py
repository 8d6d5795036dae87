"""Turn instruction triples into a LoRA adapter with Transformers and PEFT.

Layers, left may import right:
cli > run > trainer > folder > model > dataset > corpus, tokenizer > config (then stellar_local)
"""
