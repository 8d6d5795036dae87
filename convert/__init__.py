"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > export, gguf_import > card, tokenizer_files > hf > levels, quantize, gguf_out > merge > adapter, vocab
> special > checkpoint > delta, leftovers > llama > safetensors, spm, pretokenizers, space (then stellar_local)
"""
