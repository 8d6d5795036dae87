"""Turn instruction triples into a LoRA adapter with Transformers and PEFT.

Layers, left may import right:
cli > command, building, checking, identity, importing > run > trainer > folder > model > dataset > likeness >
corpus, tokenizer > arguments, config_file > config > option (then stellar_local)
"""
