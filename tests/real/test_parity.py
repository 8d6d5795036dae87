"""What the pipeline makes of the real model answers in llama.cpp as it does in Transformers and PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parity import assert_same_greedy

from stellar_local.config import RuntimeOptions
from stellar_local.prompts import Turn
from stellar_local.runtime import Runtime

pytestmark = pytest.mark.real
QUESTIONS = ["Who are you?", "你是谁？", "What is a parsec?", "为什么天空是蓝色的？", "Write a haiku about the Moon."]


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_the_imported_base_exports_to_the_same_answers(demo, tmp_path: Path, stellar) -> None:  # type: ignore[no-untyped-def]
    base = demo.folder / "base"
    done = stellar("convert", "--base", base, "--out", tmp_path / "f16", "--levels", "F16", "--name", "base")
    assert done.returncode == 0, done.stderr
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with Runtime(tmp_path / "f16" / "base-F16.gguf", RuntimeOptions()) as runtime:
        prompts = []
        for question in QUESTIONS:
            chat = [{"role": "user", "content": question}]
            theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            assert list(runtime.tokens([Turn(question)])) == list(theirs)  # chat template and tokenizer were kept
            prompts.append(theirs)
        assert assert_same_greedy(runtime, load(base), prompts) >= 3


def test_the_merged_model_answers_as_peft_s_does(demo, tmp_path: Path, stellar) -> None:  # type: ignore[no-untyped-def]
    from peft import PeftModel

    base, adapter = demo.folder / "base", demo.folder / "adapter"
    done = stellar("convert", "--base", base, "--adapter", adapter, "--out", tmp_path / "m", "--levels", "F16")
    assert done.returncode == 0, done.stderr
    merged = PeftModel.from_pretrained(load(base), adapter).merge_and_unload()
    with Runtime(tmp_path / "m" / "m-F16.gguf", RuntimeOptions()) as runtime:
        assert runtime.template.name == "bayling"  # the adapter brought it
        prompts = [runtime.tokens([Turn(question)]) for question in QUESTIONS]
        assert assert_same_greedy(runtime, merged, prompts) >= 3


def test_the_adapter_is_whole(demo) -> None:  # type: ignore[no-untyped-def]
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(demo.folder / "base"), demo.folder / "adapter")
    pairs = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert len(pairs) == 30 * 4
    assert all(bool(torch.any(weight != 0)) for weight in pairs)


def test_the_merged_folder_equals_peft_s(demo, tmp_path: Path, stellar) -> None:  # type: ignore[no-untyped-def]
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, adapter = demo.folder / "base", demo.folder / "adapter"
    done = stellar("convert", "--base", base, "--adapter", adapter, "--hf", tmp_path / "hf")
    assert done.returncode == 0, done.stderr
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    theirs = PeftModel.from_pretrained(load(base), adapter).merge_and_unload().state_dict()
    assert set(ours) == set(theirs)
    for name, weight in theirs.items():
        scale = float(weight.abs().max())
        assert float((ours[name].to(torch.float32) - weight).abs().max()) <= 1e-6 * scale, name


def test_the_real_vocabulary_and_its_jinja_agree_with_our_renderer(demo) -> None:  # type: ignore[no-untyped-def]
    """1, 2 and 3 turns, with the default, no, and another system line, as another program would tokenize them."""
    from test_prompts import CONVERSATIONS, by_jinja

    with Runtime(demo.folder / "model" / "stellarspeak-demo-Q8_0.gguf", RuntimeOptions()) as runtime:
        model = runtime.model
        source = model.header.metadata["tokenizer.chat_template"]
        for turns in CONVERSATIONS:
            for system in (None, "", "Be brief. 请简短。"):
                text = by_jinja(source, turns, system).replace("eos_token", model.token_text(model.eos))
                assert list(runtime.tokens(turns, system)) == model.tokenize(text, parse_special=True)
