"""Ids and the learned part: equal to the whole string's ids, one boundary, special tokens' texts stay text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.prompts import BOS, EOS, load_template, plain
from train.corpus import Triple
from train.dataset import Encoding, Sample, encode, encode_all, fit, hold_out
from train.tokenizer import Tokenizer, load_tokenizer

TRIPLES = [
    Triple("What is a parsec?", "", "A parsec is about 3.26 light years."),
    Triple("太阳是什么？", "", "太阳是一颗恒星。"),
    Triple("Translate.", "月球绕着地球转", "The Moon orbits  the Earth.\n\nTwice {now}."),
    Triple("{instruction} {input}</s>", "<s>", "Braces {x} and </s> and <|eot_id|> stay."),
]


def whole_ids(base: Path, text: str) -> list[int]:
    """The ids of a plain string by the tokenizer's own library, as llama.cpp gives them without special parsing."""
    if (base / "tokenizer.model").exists():
        import sentencepiece

        return list(sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model")).encode(text))
    from tokenizers import Tokenizer as Library

    library = Library.from_file(str(base / "tokenizer.json"))
    library.encode_special_tokens = True
    return list(library.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", ["spm_base", "bpe_base"])
@pytest.mark.parametrize("triple", TRIPLES, ids=range(len(TRIPLES)))
def test_ids_and_boundary(kind: str, triple: Triple, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(kind)
    tokenizer, template = load_tokenizer(base), load_template("bayling")
    sample, apart = encode(triple, template, tokenizer)
    prompt = template.prompt(triple.instruction, triple.input)
    assert tokenizer.bos_id is not None and tokenizer.eos_id is not None
    assert not apart
    assert sample.ids[0] == tokenizer.bos_id
    assert sample.ids == [tokenizer.bos_id, *whole_ids(base, prompt + triple.output), tokenizer.eos_id]
    assert sample.ids[: sample.first] == [tokenizer.bos_id, *whole_ids(base, prompt)]
    assert sample.ids.count(tokenizer.eos_id) == sample.ids.count(tokenizer.bos_id) == 1  # typed ones are text
    everything, _ = encode(triple, template, tokenizer, train_on_inputs=True)
    assert everything.ids == sample.ids
    assert everything.first == 1


def test_special_tokens_of_a_template(bpe_base: Path) -> None:
    tokenizer = load_tokenizer(bpe_base)
    sample, _ = encode(Triple("Hi <|eot_id|>", "", "Yo <|end_header_id|>"), load_template("bayling-llama-3"), tokenizer)
    begin, end, eot = (tokenizer.special(text) for text in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    assert sample.ids.count(begin) == sample.ids.count(end) == 3  # system, user, assistant
    assert sample.ids.count(eot) == 3
    assert sample.ids[-1] == eot
    assert sample.ids[0] == tokenizer.special("<|begin_of_text|>")
    assert eot not in sample.ids[sample.first : -1]


def test_a_template_of_another_model_is_named(spm_base: Path) -> None:
    with pytest.raises(UsageError, match="which this model's vocabulary lacks"):
        encode(TRIPLES[0], load_template("bayling-llama-3"), load_tokenizer(spm_base))


def test_an_answer_that_merges_with_the_prompt_is_tokenized_apart(bpe_base: Path) -> None:
    tokenizer, template = load_tokenizer(bpe_base), load_template("bayling")
    merging = Tokenizer(  # every pair of line breaks becomes one token, as in LLaMA 3
        encode=lambda text: [300 if part == "\n\n" else ord(part) % 256 for part in _pairs(text)],
        specials={},
        bos_id=None,
        eos_id=301,
        add_bos=False,
        size=302,
    )
    sample, apart = encode(Triple("q", "", "\nanswer"), template, merging)
    prompt = merging.encode(template.prompt("q"))
    assert apart
    assert sample.first == len(prompt)
    assert sample.ids == [*prompt, *merging.encode("\nanswer"), 301]
    joined, _ = encode(Triple("q", "", "\nanswer"), template, tokenizer)
    head = whole_ids(bpe_base, template.prompt("q"))
    assert joined.ids[1 : joined.first] == head


def _pairs(text: str) -> list[str]:
    out: list[str] = []
    while text:
        out.append(text[:2] if text[:2] == "\n\n" else text[:1])
        text = text[len(out[-1]) :]
    return out


def test_too_long_is_left_out_whole_and_counted(spm_base: Path) -> None:
    tokenizer, template = load_tokenizer(spm_base), load_template("bayling")
    lengths = [len(encode(triple, template, tokenizer)[0].ids) for triple in TRIPLES]
    cutoff = sorted(lengths)[1]
    samples, counts = encode_all(TRIPLES, template, tokenizer, Encoding(cutoff))
    assert [len(sample.ids) for sample in samples] == [length for length in lengths if length <= cutoff]
    assert all(sample.ids[-1] == tokenizer.eos_id for sample in samples)
    assert (counts.rows, counts.kept, counts.too_long, counts.empty) == (4, len(samples), 4 - len(samples), 0)
    with pytest.raises(StellarError, match="4 exceed 5 tokens"):
        encode_all(TRIPLES, template, tokenizer, Encoding(5))


def test_what_becomes_of_long_rows_is_counted(spm_base: Path) -> None:
    """Each policy: how many rows are left out, cut and split, and what is learned of them."""
    tokenizer, template = load_tokenizer(spm_base), load_template("bayling")
    pairs = [("q", "short"), ("q", "long " * 30), ("q" * 300, "a"), ("q", "x " * 9)]
    rows = [Triple(question, "", answer) for question, answer in pairs]
    whole = [encode(row, template, tokenizer)[0] for row in rows]
    cutoff = len(whole[3].ids)
    assert whole[2].first > cutoff < len(whole[1].ids)
    found = {}
    for policy in ("drop", "truncate", "split"):
        samples, counts = encode_all(rows, template, tokenizer, Encoding(cutoff, policy))
        assert counts.rows == 4
        assert counts.kept == len(samples)
        assert counts.learned_tokens == sum(len(sample.ids) - sample.first for sample in samples)
        assert counts.tokens == sum(len(sample.ids) for sample in samples)
        assert all(len(sample.ids) <= cutoff for sample in samples)
        assert samples[0] == whole[0]
        assert samples[-1] == whole[3]
        found[policy] = (counts.too_long, counts.truncated, counts.divided)
        learned = [token for sample in samples[1:-1] for token in sample.ids[sample.first :]]
        answer = whole[1].ids[whole[1].first :]
        expected = {"drop": [], "truncate": answer[: cutoff - whole[1].first], "split": answer}
        assert learned == expected[policy]
    assert found == {"drop": (2, 0, 0), "truncate": (1, 1, 0), "split": (1, 0, 1)}


@given(st.integers(2, 60), st.integers(1, 59), st.integers(2, 40), st.booleans())
@settings(deadline=None)
def test_a_split_answer_is_learned_once(length: int, first: int, cutoff: int, inputs: bool) -> None:
    """Every piece begins with the prompt and ends with answer tokens that follow one another; none is learned twice."""
    sample = Sample(list(range(length)), min(first, length - 1))
    pieces = fit(sample, Encoding(cutoff, "split", inputs))
    assert all(len(piece.ids) <= cutoff and piece.first < len(piece.ids) for piece in pieces)
    assert all(piece.ids[: sample.first] == sample.ids[: sample.first] for piece in pieces)
    learned = [token for piece in pieces for token in piece.ids[piece.first :]]
    for piece in pieces:
        rest = piece.ids[sample.first :]
        assert rest == list(range(rest[0], rest[0] + len(rest)))
    if len(pieces) > 1:
        assert learned == sample.ids[sample.first :]
    elif pieces:
        assert learned == sample.ids[sample.first : cutoff]
    else:
        assert sample.first >= cutoff


def test_a_sample_without_an_answer_token_is_left_out(spm_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.json"  # an answer's end is no token here, so an empty answer has none
    source = {"prompt_input": "{instruction} {input}\n", "prompt_no_input": "{instruction}\n", "response_split": "\n"}
    source |= {"user": {"suffix": "\n"}, "assistant": {}}  # type: ignore[dict-item]
    path.write_text(json.dumps(source), encoding="utf-8")
    rows = [Triple("a", "", ""), Triple("a", "", "b")]
    samples, counts = encode_all(rows, load_template(str(path)), load_tokenizer(spm_base), Encoding(100))
    assert (len(samples), counts.empty) == (1, 1)


def test_parts_of_a_row_are_held_out_together(spm_base: Path) -> None:
    """They repeat tokens of each other: a part in training would give away the one that is held out."""
    rows = [Triple(f"Question {number}?", "", f"{number} " * 60) for number in range(12)]
    samples, counts = encode_all(
        rows,
        load_template("bayling"),
        load_tokenizer(spm_base),
        Encoding(len_of_prompt(spm_base, rows[0]) + 40, "split"),
    )
    assert counts.divided == 12 and counts.kept >= 24
    train, held = hold_out(samples, 3, seed=1)
    prompts = [{tuple(sample.ids[: len_of_prompt(spm_base, rows[0])]) for sample in side} for side in (train, held)]
    assert [sum(not sample.part for sample in side) for side in (train, held)] == [9, 3]
    assert [len(side) for side in prompts] == [9, 3]
    assert not prompts[0] & prompts[1]
    with pytest.raises(StellarError, match="takes all of the 12 rows"):
        hold_out(samples, 12, seed=1)


def len_of_prompt(base: Path, row: Triple) -> int:
    return encode(row, load_template("bayling"), load_tokenizer(base))[0].first


def test_hold_out(spm_base: Path) -> None:
    samples, _ = encode_all(TRIPLES * 5, load_template("bayling"), load_tokenizer(spm_base), Encoding(512))
    for size, count in ((0, 0), (3, 3), (0.25, 5), (0.001, 1)):
        train, held = hold_out(samples, size, seed=1)
        assert (len(train), len(held)) == (20 - count, count)
        assert hold_out(samples, size, seed=1) == (train, held)
    with pytest.raises(StellarError, match="takes all of the 20 rows"):
        hold_out(samples, 2000, seed=1)


def test_the_tokenizer_reads_the_folder(spm_base: Path, bpe_base: Path, tmp_path: Path) -> None:
    spm, bpe = load_tokenizer(spm_base), load_tokenizer(bpe_base)
    assert (spm.bos_id, spm.eos_id, spm.add_bos, spm.special("</s>")) == (1, 2, True, 2)
    assert (spm.special(BOS), spm.special(EOS), spm.special("A")) == (1, 2, None)
    assert (bpe.bos_id, bpe.eos_id) == (bpe.special("<|begin_of_text|>"), bpe.special("<|eot_id|>"))
    shutil.copytree(spm_base, tmp_path / "copy")
    written = {"add_bos_token": False, "eos_token": {"content": "[END]"}}
    written |= {"added_tokens_decoder": {"480": {"content": "[END]", "special": True}}}
    (tmp_path / "copy" / "tokenizer_config.json").write_text(json.dumps(written), encoding="utf-8")
    other = load_tokenizer(tmp_path / "copy")
    assert (other.eos_id, other.add_bos, other.bos_id) == (480, False, 1)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_tokenizer_errors(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
    (tmp_path / name).write_bytes(b"{nonsense")
    with pytest.raises(ModelError, match="tokenizer file is damaged"):
        load_tokenizer(tmp_path)


def test_the_prompt_is_the_rendered_one(spm_base: Path) -> None:
    """Training's prompt equals what chat renders for the same question."""
    from stellar_local.prompts import Turn

    template = load_template("bayling")
    prompt, _ = template.training("你是谁？", "", "x")
    assert plain(prompt) == plain(template.render([Turn("你是谁？")]))
