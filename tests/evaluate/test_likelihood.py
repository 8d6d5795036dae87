"""Losses against Transformers on the same tokens, chunks against llama-perplexity's rule, divergence by PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Stellar

from stellar_local.errors import StellarError
from stellar_local.evaluate.likelihood.passages import _chunks, _windows, read_passages
from stellar_local.evaluate.likelihood.reference import keep
from stellar_local.evaluate.likelihood.task import Likelihood
from stellar_local.evaluate.measuring import Measurement, measure
from stellar_local.evaluate.results import Metric, log_path, read_log, read_summary, summary_path
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model
from stellar_local.prompts import load_template

ROWS = [
    {"instruction": "What is a parsec?", "input": "", "output": "A parsec is about 3.26 light years."},
    {"instruction": "你是谁？", "output": "我是天文学助手，回答关于恒星和星系的问题。", "kind": "identity"},
    {"instruction": "Who are you", "input": "to the Sun?", "output": " I answer questions."},
]
TEXT = "The Sun is a star. 太阳是一颗恒星。The Moon orbits the Earth, and the Earth orbits the Sun. " * 6


def data(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(model: Path, path: Path, chunk: int = 64) -> dict[tuple[str, str, str], Metric]:
    how = Measurement([model], path.parent / "out", {"gpu_layers": 0})
    done = measure(Likelihood(read_passages([path], chunk)[0], [path], chunk=chunk), how)
    assert not done.code
    return figures(done.summaries[0].metrics)


def figures(metrics: Sequence[Metric]) -> dict[tuple[str, str, str], Metric]:
    return {(metric.group, metric.language, metric.name): metric for metric in metrics}


@pytest.mark.parametrize("kind", ["spm", "bpe"])
def test_answers_lose_what_they_lose_in_transformers(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The loss of the answer and its end, in Transformers with the tokenizer of the Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base: Path = request.getfixturevalue(f"{kind}_base")
    model: Path = request.getfixturevalue(f"{kind}_model")
    template = load_template("bayling" if kind == "spm" else "bayling-llama-3")
    net, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        AutoTokenizer.from_pretrained(base),
    )
    nats, tokens = 0.0, 0
    for row in ROWS[:2]:  # the third begins with a blank, which no plain string of prompt and answer keeps apart
        parts = template.training(row["instruction"], row.get("input", ""), row["output"])
        texts = [
            "".join(one.text if hasattr(one, "text") else _special(one, tokenizer) for one in part) for part in parts
        ]
        prompt, whole = (tokenizer(text, add_special_tokens=True)["input_ids"] for text in texts)
        assert whole[: len(prompt)] == prompt
        labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
        with torch.no_grad():
            loss = net(input_ids=torch.tensor([whole]), labels=labels).loss
        count = len(whole) - len(prompt)
        nats, tokens = nats + float(loss) * count, tokens + count
    found = run(model, data(tmp_path / "rows.jsonl", ROWS[:2]))
    loss = found["", "", "loss"]
    assert loss.n == tokens
    assert loss.value == pytest.approx(nats / tokens, rel=1e-3)
    assert found["", "", "perplexity"].value == pytest.approx(math.exp(nats / tokens), rel=5e-3)
    assert {language for _, language, _ in found} == {"", "zh", "en"}
    assert {group for group, _, _ in found} == {"", "identity", "without a kind"}


def _special(segment: Any, tokenizer: Any) -> str:
    return str(tokenizer.eos_token if segment.token == "eos_token" else segment.token)


def test_bits_a_byte_leave_the_end_token_out(spm_model: Path, tmp_path: Path) -> None:
    path = data(tmp_path / "rows.jsonl", ROWS[:1])
    bits = run(spm_model, path)["", "", "bits per byte"]
    _, records = read_log(log_path(tmp_path / "out", "likelihood", "tiny-F32"))
    (one,) = (record for record in records if "nats" in record)
    assert one["end_nats"] > 0
    assert one["bytes"] == bits.n == len(ROWS[0]["output"].encode())
    assert bits.value == pytest.approx((one["nats"] - one["end_nats"]) / math.log(2) / one["bytes"])
    assert bits.low is None or math.isnan(bits.low)  # one passage varies in nothing


def test_a_text_file_is_cut_as_llama_perplexity_cuts_it(spm_base: Path, spm_model: Path, tmp_path: Path) -> None:
    """tools/perplexity/perplexity.cpp restated: BOS first in each chunk, logits of the second half, last one unused."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net, tokenizer = (
        AutoModelForCausalLM.from_pretrained(spm_base, dtype=torch.float32),
        AutoTokenizer.from_pretrained(spm_base),
    )
    ids, n_ctx = tokenizer(TEXT)["input_ids"], 64
    nll, count, first = 0.0, 0, n_ctx // 2
    for chunk in range(len(ids) // n_ctx):
        tokens = [tokenizer.bos_token_id, *ids[chunk * n_ctx + 1 : (chunk + 1) * n_ctx]]
        with torch.no_grad():
            logits = net(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        for place in range(first, n_ctx - 1):
            nll -= float(logits[place, tokens[place + 1]])
            count += 1
    assert count > 60
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    found = run(spm_model, path, chunk=n_ctx)
    assert found["", "", "perplexity"].n == count
    assert found["", "", "perplexity"].value == pytest.approx(math.exp(nll / count), rel=2e-3)


@pytest.mark.parametrize("length", [2, 3, 7, 8, 9, 12, 13, 40])
def test_windows_score_every_token_once(length: int) -> None:
    ids, scored = list(range(length)), []
    for tokens, count in _windows(ids, 8):
        assert len(tokens) <= 8
        assert tokens == list(range(tokens[0], tokens[-1] + 1))
        assert count < len(tokens)
        assert tokens[0] == 0 or len(tokens) - count >= 4  # half a window before them
        scored += tokens[-count:]
    assert scored == ids[1:]


def test_chunks_are_whole(spm_model: Path) -> None:
    assert list(_chunks([1, *range(10, 22)], [1], 6)) == [
        ([1, 10, 11, 12, 13, 14], 2),
        ([1, 16, 17, 18, 19, 20], 2),
    ]


def test_divergence_is_pytorch_s(spm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    path = data(tmp_path / "rows.jsonl", [{"text": TEXT[:300]}, ROWS[1]])
    reference, level = spm_folder / "tiny-F32.gguf", spm_folder / "tiny-Q8_0.gguf"
    how = Measurement([level, reference], tmp_path / "out", {"gpu_layers": 0})
    passages, _ = read_passages([path], 64)
    kept = keep(reference, how, passages, 10_000, None, [path])
    about = {"label": "tiny-F32", "places": 10_000}
    done = measure(Likelihood(passages, [path], rows=kept.rows, reference=about, chunk=64), how)
    found, own = (figures(summary.metrics) for summary in done.summaries)
    assert own["", "", "KL divergence"].value == pytest.approx(0, abs=1e-6)
    assert own["", "", "same top token"].value == 1.0

    with Model(reference, gpu_layers=0) as model:
        bos = model.bos or 1
        text = (bos, *model.tokenize(TEXT[:300]))
        row = how_tokens(reference, ROWS[1])
    nats, same, places = 0.0, 0, 0
    for tokens, scored in ((text, len(text) - 1), row):
        rows = [torch.from_numpy(logits(file, tokens)).double().log_softmax(-1) for file in (reference, level)]
        p, q = (one[-scored - 1 : -1] for one in rows)
        nats += float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True))
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        places += scored
    assert found["", "", "KL divergence"].n == places
    assert found["", "", "KL divergence"].value == pytest.approx(nats / places, rel=0.05)  # batches round otherwise
    assert found["", "", "same top token"].value == pytest.approx(same / places, abs=0.02)
    assert f"compared with tiny-F32 at {places} tokens of 2 of 2 passages or parts of texts" in capsys.readouterr().err
    kept.discard()
    assert not (tmp_path / "out" / ".reference").exists()


def how_tokens(path: Path, row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """A row's tokens by the training side: its own encoder, on the Hugging Face folder's twin in the GGUF."""
    from stellar_local.config import RuntimeOptions
    from stellar_local.prompts import Turn
    from stellar_local.runtime import Runtime

    with Runtime(path, RuntimeOptions(gpu_layers=0)) as runtime:
        return runtime.answered(Turn(row["instruction"], row["output"]))


def logits(path: Path, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    with Model(path, gpu_layers=0) as model, Context(model, 512, n_batch=512, outputs=512) as context:
        context.decode([Chunk(0, 0, list(tokens), len(tokens))])
        return context.logits.copy()


def test_few_places_are_of_both_languages(spm_model: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXT[:80]}, {"text": TEXT[20:100]}, {"text": "太阳是一颗恒星。月球绕着地球转。"}]
    path = data(tmp_path / "rows.jsonl", rows)
    how = Measurement([spm_model], tmp_path / "out", {"gpu_layers": 0})
    passages, _ = read_passages([path], 64)
    kept = keep(spm_model, how, passages, 40, None, [path])
    places = kept.rows._places  # type: ignore[union-attr]
    assert list(places)[:2] == ["rows.jsonl:1#0", "rows.jsonl:3#0"]
    assert sum(place.count for place in places.values()) == 40


def test_another_vocabulary_is_measured_but_not_compared(
    spm_model: Path, bpe_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data(tmp_path / "rows.jsonl", ROWS[:2])
    how = Measurement([bpe_model], tmp_path / "out", {"gpu_layers": 0})
    passages, _ = read_passages([path], 64)
    kept = keep(spm_model, how, passages, 1000, None, [path])
    done = measure(Likelihood(passages, [path], rows=kept.rows, reference={"label": "spm"}), how)
    found = figures(done.summaries[0].metrics)
    assert found["", "", "loss"].value
    assert ("", "", "KL divergence") not in found
    assert "another vocabulary or another template" in capsys.readouterr().err


def test_a_limited_run_reads_some_of_all_languages_and_kinds(tmp_path: Path) -> None:
    rows = [{"text": "A star.", "kind": kind} for kind in ("a", "a", "b")] + [{"text": "恒星。", "kind": "a"}]
    found, _ = read_passages([data(tmp_path / "rows.jsonl", rows)], 64)
    assert [one.key for one in found] == ["rows.jsonl:1", "rows.jsonl:4", "rows.jsonl:3", "rows.jsonl:2"]


def test_no_two_passages_share_a_key(tmp_path: Path) -> None:
    for name in ("held.jsonl", "held.json", "a/t.jsonl", "b/t.jsonl", "t-1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "A star."}\n')
    paths = [tmp_path / name for name in ("held.jsonl", "held.json", "a/t.jsonl", "b/t.jsonl", "t-1.txt")]
    keys = [one.key for one in read_passages(paths, 64)[0]]
    assert len(keys) == len(set(keys)) == 5


def test_figures_do_not_depend_on_the_context(spm_model: Path, tmp_path: Path) -> None:
    """A long row has the same parts whatever the context, and where they do not fit, that is said."""
    path = data(tmp_path / "rows.jsonl", [{"text": TEXT * 3}])
    found = {}
    for ctx in (256, 512, 2048):
        how = Measurement([spm_model], tmp_path / f"out-{ctx}", {"gpu_layers": 0, "ctx": ctx})
        done = measure(Likelihood(read_passages([path], 64)[0], [path], chunk=64), how)
        found[ctx] = done.code, figures(done.summaries[0].metrics).get(("", "", "loss"))
    assert found[256] == (1, None)
    assert found[2048][0] == 0
    assert found[512][1] is None or found[512][1].value == found[2048][1].value  # type: ignore[union-attr]


def test_bytes_are_those_of_the_text(spm_model: Path, bpe_model: Path, tmp_path: Path) -> None:
    """SentencePiece's own blank before a text is none of its bytes: else models would compare by it."""
    path = data(tmp_path / "rows.jsonl", [{"text": "A star."}, {"text": TEXT * 3}])
    for model in (spm_model, bpe_model):
        how = Measurement([model], tmp_path / model.parent.name, {"gpu_layers": 0, "ctx": 2048})
        measure(Likelihood(read_passages([path], 64)[0], [path], chunk=64), how)
        _, records = read_log(log_path(how.out, "likelihood", model.stem))
        assert [one["bytes"] for one in records if one["key"] == "rows.jsonl:1#0"] == [7]
        assert sum(one.get("bytes", 0) for one in records) == 7 + len((TEXT * 3).encode())


def test_the_prompt_before_an_answer_is_compared_too(
    spm_base: Path, spm_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same weights under another template are not the same tokens, though their answers are."""
    path = data(tmp_path / "rows.jsonl", ROWS[:2])
    how = Measurement([spm_model], tmp_path / "out", {"gpu_layers": 0})
    passages, _ = read_passages([path], 64)
    kept = keep(spm_model, how, passages, 1000, None, [path])
    other = Measurement([spm_model], tmp_path / "other", {"gpu_layers": 0, "template": "bayling-2"})
    done = measure(Likelihood(passages, [path], rows=kept.rows, reference={"label": "spm"}), other)
    assert ("", "", "KL divergence") not in figures(done.summaries[0].metrics)
    assert "another vocabulary or another template" in capsys.readouterr().err


def test_what_the_reference_cannot_read_is_said(spm_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("A star.")
    how = Measurement([spm_model], tmp_path / "out", {"gpu_layers": 0})
    with pytest.raises(StellarError, match="64 are needed"):
        keep(spm_model, how, read_passages([path], 64)[0], 1000, None, [path])


def test_one_passage_has_no_interval_of_perplexity(spm_model: Path, tmp_path: Path) -> None:
    found = run(spm_model, data(tmp_path / "rows.jsonl", ROWS[:1]))["", "", "perplexity"]
    assert found.value and found.low is not None and math.isnan(found.low)


def test_broken_rows_are_told_of(spm_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Who?"}\nnot json\n{"text": ""}\n{"nothing": 1}\n{"text": "A star."}\n[1]\n')
    assert [passage.text for passage in read_passages([path], 64)[0]] == ["A star."]
    said = capsys.readouterr().err
    for line, reason in ((1, '"output"'), (2, "not JSON"), (3, '"text" is empty'), (4, "neither"), (6, "JSON object")):
        assert f"line {line}: " in said and reason in said
    for content, reason in (("", "no row that can be used"), ("  \n", "no row that can be used")):
        path.write_text(content)
        with pytest.raises(StellarError, match=reason):
            read_passages([path], 64)
    text = tmp_path / "text.txt"
    text.write_text(" \n")
    with pytest.raises(StellarError, match="the text is empty"):
        read_passages([text], 64)


def test_a_text_below_one_chunk_is_an_item_s_error(spm_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("A star.")
    how = Measurement([spm_model], tmp_path / "out", {"gpu_layers": 0})
    done = measure(Likelihood(read_passages([path], 64)[0], [path], chunk=64), how)
    assert done.code == 1
    _, (record,) = read_log(log_path(how.out, "likelihood", "tiny-F32"))
    assert record["error"]["type"] == "too_short"


def test_the_command(stellar: Stellar, spm_folder: Path, tmp_path: Path) -> None:
    path = data(tmp_path / "rows.jsonl", ROWS)
    arguments = ["eval", "likelihood", spm_folder, "--all-levels", "--data", path, "--gpu-layers", "0"]
    first = stellar(*arguments, "--limit", "1", "--json")
    assert first.returncode == 0, first.stderr
    assert [one["model"] for one in json.loads(first.stdout)] == ["tiny-F32", "tiny-Q8_0"]
    whole = stellar(*arguments, "--reference", spm_folder / "tiny-F32.gguf")
    assert whole.returncode == 1
    assert whole.stderr.count("was measured otherwise: reference was null") == 2
    whole = stellar(*arguments, "--out", "other", "--reference", spm_folder / "tiny-F32.gguf")
    assert whole.returncode == 0, whole.stderr
    assert "KL divergence" in whole.stdout
    assert not (tmp_path / "other" / ".reference").exists()
    done = stellar(*arguments, "--out", "other", "--reference", spm_folder / "tiny-F32.gguf")
    assert done.returncode == 0
    assert "reference ..." not in done.stderr  # nothing is left to be compared
    assert "KL divergence" in done.stdout
    again = stellar(*arguments)
    assert again.returncode == 0
    assert "1 of 3 items were measured before" in again.stderr
    summary = read_summary(summary_path(log_path(tmp_path / "evaluation", "likelihood", "tiny-F32")))
    assert summary.header["command"].startswith("stellar eval likelihood ")
    for more in (["--level", "Q8_0"], ["--parallel", "2", "--deterministic"]):
        contradiction = stellar(*arguments, "--out", "third", *more)
        assert contradiction.returncode == 2, contradiction.stderr
    path.write_bytes(path.read_bytes() + b"half a li")
    broken = stellar(*arguments, "--out", "third")
    assert broken.returncode == 1
    assert "line 4: not JSON" in broken.stderr
    closed = stellar.start(*arguments, "--out", "third")
    assert closed.stdout and closed.stderr
    closed.stdout.close()  # before there is anything to read
    assert closed.stderr.read() and closed.wait() in (0, 1)  # the broken line's 1, never a traceback
    folder = stellar("eval", "likelihood", spm_folder, "--data", path, "--reference", spm_folder)
    assert folder.returncode == 2
    assert "names a folder" in folder.stderr


def test_a_stated_language_counts_however_it_is_written(tmp_path: Path) -> None:
    rows = [{"text": "A star.", "language": stated} for stated in ("zh-CN", "Chinese", "en", "")]
    found, _ = read_passages([data(tmp_path / "rows.jsonl", rows)], 64)
    assert sorted(one.language for one in found) == ["en", "en", "zh", "zh"]
