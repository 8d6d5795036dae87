"""Merge LoRA adapters into a base and export GGUF levels, tensor by tensor; import a GGUF as a base;
measure importance matrices.

Layers: cli, imatrix_command > report, imatrix_run > export, verify, gguf_import
> merged_folder, lora_gguf, card, divergence, tokenizer_files > job, weights_out, gguf_out
> pipeline, manifest, hf, metadata > levels, imatrix, imatrix_write, tensor_file
> merge, mix, imatrix_collect, imatrix_loss, imatrix_text > parts > adapter > adapter_keys, trained_on
> adapter_config, compare, vocab, about, fingerprint > special > checkpoint > delta, leftovers > llama
> safetensors, spm, pretokenizers, space, prose, fields (then stellar_local)
"""
