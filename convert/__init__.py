"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > export, verify, lora_gguf, gguf_import > merged_folder, card, divergence, tokenizer_files
> job, pipeline, weights_out, gguf_out > manifest, hf, metadata > levels, tensor_file, merge
> adapter, vocab, about, fingerprint > llama, checkpoint > safetensors, spm, pretokenizers, space, prose
(then stellar_local)
"""
