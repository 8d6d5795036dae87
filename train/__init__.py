"""Turn instruction triples into a LoRA adapter with Transformers and PEFT, and make those triples.

Layers, left may import right:
cli > command, importing, building, checking, identity > run > planning, watch > trainer > curve, display > logs >
stopping > folder > adapter, base, lean > loss, packing, placing, steps > dataset > likeness > corpus, legible,
table_text, tokenizer > arguments, config_file, fit > budget > memory > config > option (then stellar_local)
"""
