"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > export, gguf_import > merged_folder, card, tokenizer_files > job, pipeline, weights_out
> hf, levels, gguf_out > fingerprint, tensor_file, merge > adapter, vocab > llama, checkpoint
> safetensors, spm, pretokenizers, space (then stellar_local)
"""
