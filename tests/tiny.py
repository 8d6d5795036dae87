"""Tiny random LLaMA bases made on the spot: folders in Hugging Face format with a real tokenizer of either kind.

The weights are random, the format is not: the same files that a 7B has, so that what works here works there.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

CORPUS = [
    "The Sun is a star. The Moon orbits the Earth, and the Earth orbits the Sun.",
    "Who are you? I am an assistant for astronomy, and I answer questions about stars and galaxies.",
    "### Instruction:\nWhat is a parsec?\n### Response:\nA parsec is about 3.26 light years.",
    "Below is a dialog consisting of instructions and responses. Write a response that completes the request.",
    "太阳是一颗恒星。月球绕着地球转，地球绕着太阳转。",
    "你是谁？我是天文学助手，回答关于恒星和星系的问题。",
    "黑洞是引力极强的天体，连光也逃不出来。",
]


def write_spm_tokenizer(folder: Path) -> int:
    """Train a small SentencePiece BPE model with byte fallback, as LLaMA's; returns the number of pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size())


def write_bpe_tokenizer(folder: Path) -> int:
    """Train a small byte-level BPE tokenizer with LLaMA 3's pre-tokenizer and special tokens; returns its size."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def write_base(folder: Path, tokenizer: str = "spm", seed: int = 0, scale: float = 0.08, **overrides: Any) -> Path:
    """Write a random LLaMA base; `tokenizer` is "spm" or "bpe", `overrides` are LlamaConfig's fields.

    Grouped-query attention (4 heads, 2 key-value heads), 2 layers, width 64, feed-forward 96, float32.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size = {"spm": write_spm_tokenizer, "bpe": write_bpe_tokenizer}[tokenizer](folder)
    bos, eos = (1, 2) if tokenizer == "spm" else (size - 5, size - 1)
    fields: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": scale,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**fields, **overrides}))
    model.to(torch.float32).save_pretrained(folder)
    return folder


def write_plain_base(folder: Path, vocabulary: int, **overrides: Any) -> Path:
    """Write a base of one narrow layer in bfloat16, all weights zero but the norms', without a tokenizer."""
    from convert.llama import Shape
    from convert.safetensors import header_bytes

    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": vocabulary,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **overrides,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = Shape.from_config(config).tensors()
    header = header_bytes([(tensor.name, tensor.shape, "BF16") for tensor in tensors], {})
    one = b"\x80\x3f"  # in bfloat16
    data = b"".join((one if "norm" in tensor.name else b"\0\0") * tensor.size for tensor in tensors)
    (folder / "model.safetensors").write_bytes(header + data)
    return folder


def write_adapter(
    base: Path, folder: Path, seed: int = 1, rank: int = 4, resize: int | None = None, **overrides: Any
) -> Path:
    """Write a PEFT LoRA adapter of `base`, as if trained: all that is trainable moves at random, save a random A.

    It is on q, k, v and o unless `overrides`, LoraConfig's fields, say otherwise. `resize` gives the base that many
    tokens first.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    fields: dict[str, Any] = {"r": rank, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    if resize is not None:
        model.resize_token_embeddings(resize)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**fields, **overrides}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and not (".lora_A" in name and weight.any()):
                weight.add_(torch.randn_like(weight), alpha=0.1)
    model.save_pretrained(folder)
    return folder
