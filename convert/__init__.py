"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > export, gguf_import > card, tokenizer_files > hf > levels, quantize, gguf_out > merge > parts > adapter
> adapter_keys, trained_on > adapter_config, compare, vocab > llama, checkpoint > safetensors, spm, pretokenizers, space
(then stellar_local)
"""
