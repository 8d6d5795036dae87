"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > export > verify, lora_gguf, gguf_import > card, divergence, tokenizer_files > manifest, hf, metadata
> levels, quantize, gguf_out > merge > adapter, vocab, about > llama, checkpoint
> safetensors, spm, pretokenizers, space, prose (then stellar_local)
"""
