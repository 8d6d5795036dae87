"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base.

Layers: cli > report > export, verify, gguf_import > merged_folder, lora_gguf, card, divergence, tokenizer_files
> job, weights_out, gguf_out > pipeline, manifest, hf, metadata > levels, imatrix, tensor_file
> merge, mix > parts > adapter > adapter_keys, trained_on > adapter_config, compare, vocab, about, fingerprint
> special > checkpoint > delta, leftovers > llama
> safetensors, spm, pretokenizers, space, prose, fields (then stellar_local)
"""
