"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > export, gguf_import > hf > levels, quantize > merge > adapter, vocab, llama > checkpoint (then stellar_local)
"""
