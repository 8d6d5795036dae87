"""Judging models: both orders, the cache, failures item by item, interruptions; over HTTP and on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Stellar
from judge_server import JudgeServer, Reply, answers_of, completion, judge_server

from stellar_local.cli import main
from stellar_local.errors import ExitCode, RequestError, StellarError
from stellar_local.evaluate.pairwise.endpoint import Endpoint, Judgement, Unusable
from stellar_local.evaluate.pairwise.judges import EndpointJudge
from stellar_local.evaluate.pairwise.judging import Put, judge_pairs
from stellar_local.evaluate.pairwise.outcome import notes
from stellar_local.evaluate.pairwise.pairs import Pair
from stellar_local.evaluate.pairwise.questions import Question
from stellar_local.evaluate.pairwise.records import by_games
from stellar_local.evaluate.results import read_log

PAIRS = [
    Pair(Question("q:1", "1", ("一？",), language="zh"), ("good",), ("bad",)),
    Pair(Question("q:2", "2", ("2?",)), ("bad",), ("good",)),
    Pair(Question("q:3", "3", ("3?",)), ("same",), ("same ",)),
    Pair(Question("q:4", "4", ("4?",)), ("bad",), ("also bad",)),
]


def by_merit(prompt: str) -> str:
    """A fair judge: good beats bad, else it prefers what stands first."""
    first, second = answers_of(prompt)
    return f"I looked.\n[[{'B' if second == 'good' else 'A'}]]"


class FairJudge:
    """A judge without a model; `fails` are questions that it fails on."""

    name, identity, max_tokens = "fair", {"version": 1}, 100

    def __init__(self, fails: Sequence[str] = (), says: Any = by_merit) -> None:
        self.prompts: list[str] = []
        self._fails, self._says = fails, says

    def run(self, prompts: Sequence[tuple[str, str]], put: Put) -> ExitCode | None:
        for key, prompt in prompts:
            self.prompts.append(prompt)
            failed = any(f"\n{one}\n" in prompt for one in self._fails)
            put(key, RequestError("x", "no answer") if failed else Judgement(self._says(prompt), False, 10, 5))
        return None


def winners(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {one["key"]: one.get("winner") or one["error"]["type"] for one in records}


def test_both_orders_and_a_disagreement_is_a_tie(tmp_path: Path) -> None:
    judge = FairJudge()
    judged = judge_pairs(PAIRS, judge, tmp_path)
    records = by_games(PAIRS, judged.games)
    assert winners(records) == {"q:1": "a", "q:2": "b", "q:3": "tie", "q:4": "tie"}
    assert len(judge.prompts) == 6  # nobody need judge the same answers
    assert records[3]["why"] == "the two orders disagree"
    assert records[2]["same"]
    assert [game["order"] for game in records[0]["games"]] == ["ab", "ba"]
    assert (judged.asked, judged.kept, judged.left) == (6, 0, 0)
    assert (judged.prompt_tokens, judged.completion_tokens) == (60, 30)
    assert sum("两个助手" in prompt for prompt in judge.prompts) == 2


def test_one_order_only_shows_the_bias(tmp_path: Path) -> None:
    judged = judge_pairs(PAIRS, FairJudge(), tmp_path, orders=("ab",))
    assert winners(by_games(PAIRS, judged.games)) == {"q:1": "a", "q:2": "b", "q:3": "tie", "q:4": "a"}


def test_what_was_judged_is_never_asked_again(tmp_path: Path) -> None:
    judge_pairs(PAIRS[:2], FairJudge(), tmp_path)
    again = FairJudge()
    judged = judge_pairs(PAIRS, again, tmp_path)
    assert len(again.prompts) == 2
    assert (judged.asked, judged.kept) == (2, 4)
    assert judged.asked_tokens == (20, 10)
    assert judged.prompt_tokens == 60
    offline = judge_pairs(PAIRS, FairJudge(fails=["4?"]), tmp_path, offline=True)
    assert offline.games == judged.games
    changed = [Pair(PAIRS[0].question, ("good",), ("worse",))]
    judge_pairs(changed, again, tmp_path)
    assert len(again.prompts) == 4
    other = FairJudge()
    other.identity = {"version": 2}
    judge_pairs(PAIRS[:1], other, tmp_path)
    assert len(other.prompts) == 2
    judge_pairs(PAIRS[:1], again, tmp_path, "scores")
    assert len(again.prompts) == 6


def test_only_what_was_cut_is_asked_again_with_a_higher_limit(tmp_path: Path) -> None:
    class Short(FairJudge):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.max_tokens = limit

        def run(self, prompts: Sequence[tuple[str, str]], put: Put) -> ExitCode | None:
            for key, prompt in prompts:
                self.prompts.append(prompt)
                put(key, Judgement(by_merit(prompt), "\n2?\n" in prompt and self.max_tokens < 50, 10, 5))
            return None

    judged = judge_pairs(PAIRS, Short(20), tmp_path)
    record = by_games(PAIRS, judged.games)[1]
    assert record["error"]["type"] == "cut"
    assert "--judge-max-tokens" in record["error"]["message"]
    assert "--judge-max-tokens" in " ".join(notes([record], "A", "B"))
    for limit, offline, asked in ((20, False, 0), (10, False, 0), (99, True, 0), (40, False, 2), (50, False, 2)):
        again = Short(limit)
        judged = judge_pairs(PAIRS, again, tmp_path, offline=offline)
        assert (len(again.prompts), judged.asked, judged.kept, judged.left) == (asked, asked, 6 - asked, 0), limit
    assert winners(by_games(PAIRS, judged.games))["q:2"] == "b"


def test_offline_tells_what_is_missing(tmp_path: Path) -> None:
    judge = FairJudge()
    judged = judge_pairs(PAIRS, judge, tmp_path, offline=True)
    assert judge.prompts == []
    assert judged.left == 6
    assert winners(by_games(PAIRS, judged.games))["q:1"] == "not_judged"


def test_failures_and_verdicts_that_are_none_are_told_apart_and_failures_are_tried_again(tmp_path: Path) -> None:
    judge = FairJudge(fails=["2?"], says=lambda prompt: "Well." if "\n4?\n" in prompt else by_merit(prompt))
    judged = judge_pairs(PAIRS, judge, tmp_path)
    records = by_games(PAIRS, judged.games)
    assert winners(records) == {"q:1": "a", "q:2": "not_judged", "q:3": "tie", "q:4": "unclear"}
    assert "no answer" in records[1]["error"]["message"]
    assert "'Well.'" in records[3]["error"]["message"]
    assert judged.left == 2
    again = FairJudge()
    assert winners(by_games(PAIRS, judge_pairs(PAIRS, again, tmp_path).games))["q:2"] == "b"
    assert len(again.prompts) == 2


def test_a_judge_that_stops_leaves_what_it_did(tmp_path: Path) -> None:
    class Stops(FairJudge):
        def run(self, prompts: Sequence[tuple[str, str]], put: Put) -> ExitCode | None:
            super().run(prompts[:3], put)
            raise Unusable("gone")

    judged = judge_pairs(PAIRS, Stops(), tmp_path)
    assert judged.stopped
    assert (judged.asked, judged.left) == (3, 3)
    assert winners(by_games(PAIRS, judged.games))["q:1"] == "a"


def endpoint_judge(server: JudgeServer, workers: int = 3, **more: Any) -> EndpointJudge:
    return EndpointJudge("net", Endpoint(server.url, "m", key="k" * 20, **more), workers)


def judged_over(server: JudgeServer, prompts: int = 9, **more: Any) -> dict[str, Judgement | StellarError]:
    found: dict[str, Judgement | StellarError] = {}
    endpoint_judge(server, **more).run([(str(n), f"p{n}") for n in range(prompts)], found.__setitem__)
    return found


def text_of(request: dict[str, Any]) -> str:
    return str(request["messages"][0]["content"])


def test_many_at_once_each_its_own_answer() -> None:
    def reply(request: dict[str, Any]) -> Reply:
        if text_of(request) == "p3":
            return Reply(400, {"error": {"message": "too long"}})
        return Reply(**{**completion(f"of {text_of(request)}").__dict__, "delay": 0.02})

    with judge_server(reply) as server:
        found = judged_over(server)
    assert {key: one.text for key, one in found.items() if isinstance(one, Judgement)} == {
        str(n): f"of p{n}" for n in range(9) if n != 3
    }
    assert isinstance(found["3"], RequestError)


def test_a_key_that_is_refused_ends_it_at_once() -> None:
    with judge_server(lambda _: Reply(401, {"error": {"message": "bad key " + "k" * 20}})) as server:
        with pytest.raises(Unusable, match="401.*bad key") as failed:
            judged_over(server, 50)
        assert len(server.requests) <= 3
        assert "kkk" not in failed.value.message


def test_an_endpoint_that_fails_and_fails_is_given_up() -> None:
    with judge_server(lambda _: Reply(418, b"no")) as server:
        with pytest.raises(Unusable, match="8 judgements in a row failed.*418") as failed:
            judged_over(server, 500)
        assert "--endpoint" in failed.value.hint
        assert len(server.requests) < 500


def test_failures_among_others_are_not_given_up() -> None:
    """Twelve of twenty fail, but never eight in a row."""
    fails = {f"p{n}" for n in range(20) if n % 5 > 1}
    with judge_server(lambda request: Reply(418) if text_of(request) in fails else completion("ok")) as server:
        found = judged_over(server, 20, workers=1)
    assert sum(isinstance(one, StellarError) for one in found.values()) == 12


def test_a_signal_ends_it_when_what_is_in_hand_is_done() -> None:
    """One try that would wait long is given up, and is no error of the item's."""

    def reply(request: dict[str, Any]) -> Reply:
        if text_of(request) == "p0":
            return Reply(503, b"", {"Retry-After": "100"})
        if text_of(request) == "p2":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            return Reply(**{**completion("late").__dict__, "delay": 0.3})
        return completion("ok")

    found: dict[str, Judgement | StellarError] = {}
    with judge_server(reply) as server:
        judge = endpoint_judge(server, 2)
        code = judge.run([(str(n), f"p{n}") for n in range(3)], found.__setitem__)
    assert code == ExitCode.INTERRUPTED
    assert {key: one.text for key, one in found.items() if isinstance(one, Judgement)} == {"1": "ok", "2": "late"}
    assert "0" not in found


def test_an_empty_answer_is_none_and_is_asked_for_again(tmp_path: Path) -> None:
    """Whether it came now or was kept by an earlier version; a verdict that is none stays, and is not asked again."""
    silent = FairJudge(says=lambda prompt: " " if "\n2?\n" in prompt else "Well.")
    judged = judge_pairs(PAIRS, silent, tmp_path)
    assert (judged.asked, judged.left) == (4, 2)
    assert winners(by_games(PAIRS, judged.games))["q:2"] == "not_judged"
    assert winners(by_games(PAIRS, judged.games))["q:1"] == "unclear"
    (log,) = tmp_path.glob("judgements--*.jsonl")
    text = log.read_text(encoding="utf-8").replace('"Well."', '""', 1).replace('"Well."', "7", 1)
    log.write_text(text.replace('"prompt_tokens": 10', f'"prompt_tokens": {10**400}', 3), encoding="utf-8")
    assert judge_pairs(PAIRS, FairJudge(), tmp_path, offline=True).left == 4
    again = FairJudge(says=lambda _: "Well.")
    judged = judge_pairs(PAIRS, again, tmp_path)
    assert (len(again.prompts), judged.asked, judged.kept, judged.left) == (4, 4, 2, 0)
    assert judged.prompt_tokens == 50  # of the two that were kept, one has a count that is none


@pytest.mark.parametrize("usage", [True, [1], "x", {"prompt_tokens": -1}, {"prompt_tokens": 10**400}])
def test_kept_counts_that_are_none_are_nothing(usage: Any, tmp_path: Path) -> None:
    judge_pairs(PAIRS[:1], FairJudge(), tmp_path)
    (log,) = tmp_path.glob("judgements--*.jsonl")
    header, *lines = log.read_text(encoding="utf-8").splitlines()
    changed = [json.dumps({**json.loads(line), "usage": usage, "max_tokens": "x"}) for line in lines]
    log.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
    judged = judge_pairs(PAIRS[:1], FairJudge(), tmp_path)
    assert (judged.kept, judged.prompt_tokens, judged.completion_tokens) == (2, 0, 0)


# The whole command.

FILES = {
    "q.jsonl": [
        {"question_id": 1, "text": "什么是黑洞？", "category": "a"},
        {"question_id": 2, "text": "What is dark matter?", "category": "b"},
        {"question_id": 3, "text": "Say nothing.", "category": "b"},
    ],
    "old.jsonl": [{"question_id": n, "text": "bad"} for n in (1, 2, 3)],
    "new.jsonl": [{"question_id": 1, "text": "good"}, {"question_id": 2, "text": "good"}],
}


@pytest.fixture
def folder(stellar: Stellar) -> Path:
    for name, lines in FILES.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (stellar.cwd / name).write_text(text, encoding="utf-8")
    stellar.env["OPENAI_API_KEY"] = "sk-0123456789abcdef"
    return stellar.cwd


COMPARE = ["eval", "compare", "old.jsonl", "new.jsonl", "--questions", "q.jsonl"]


def fair(request: dict[str, Any]) -> Reply:
    return completion(by_merit(text_of(request)))


def test_the_command_with_an_endpoint_and_without_a_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    with judge_server(fair) as server:
        over = ["--judge", "openai", "--endpoint", server.url, "--judge-model", "gpt", "--price-in", "5", "--json"]
        code = main([*COMPARE, *over])
        assert len(server.requests) == 4
    first = capsys.readouterr()
    assert code == 1, first.err  # a question lacks an answer
    assert "q:3: new.jsonl has no answer to it" in first.err
    assert "at a price of 0.0020" in first.err
    (shown,) = json.loads(first.out)
    figures = {one["name"]: one for one in shown["metrics"] if not one.get("group") and not one.get("language")}
    assert figures["win rate"]["value"] == 0
    assert figures["losses"]["value"] == 2
    assert "too small to tell" in " ".join(shown["notes"])
    assert main([*COMPARE, *over, "--offline"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["metrics"] == shown["metrics"]
    assert main([*COMPARE, *over, "--offline", "--judge-max-tokens", "99"]) == 1  # nothing was cut: it is the same
    assert json.loads(capsys.readouterr().out)[0]["metrics"] == shown["metrics"]
    assert main([*COMPARE, *over, "--offline", "--judge-model", "other"]) == 1  # of another judge nothing is there
    assert "other has judged nothing" in capsys.readouterr().err
    assert main([*COMPARE, *over, "--judge-model", "other", "--judge-name", "gpt"]) == 2
    assert "holds what another judge has said" in capsys.readouterr().err
    everything = b"".join(path.read_bytes() for path in (folder / "evaluation").iterdir() if path.is_file())
    assert b"sk-0123456789abcdef" not in everything
    assert "sk-0123456789abcdef" not in first.out + first.err
    header, records = read_log(folder / "evaluation" / "compare--old_vs_new_gpt.jsonl")
    assert header["judge"]["model"] == "gpt"
    assert [(one["key"], one.get("winner")) for one in records] == [("q:1", "b"), ("q:2", "b"), ("q:3", None)]


def test_a_judge_that_says_nothing_or_refuses_is_told_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    (folder / "new.jsonl").write_text((folder / "old.jsonl").read_text().replace("bad", "good"))
    answers: list[Reply] = [Reply(401, {"error": {"message": "no"}})]
    with judge_server(lambda _: answers[0]) as server:
        over = ["--judge", "openai", "--endpoint", server.url, "--judge-model", "gpt", "--workers", "1"]
        assert main([*COMPARE, *over]) == 1
        told = capsys.readouterr().err
        assert "not judged yet" not in told
        assert "gpt: 6 judgements missing" in told
        assert "the endpoint answers 401: no" in told
        assert main([*COMPARE, *over, "--offline"]) == 1
        told = capsys.readouterr().err
        assert "not judged yet" not in told
        assert "has judged nothing: 6 judgements missing" in told
        answers[0] = completion(None)
        for _ in range(2):  # it is asked again
            before = len(server.requests)
            assert main([*COMPARE, *over]) == 1
            assert len(server.requests) == before + 6
            assert "the judge's answer is empty" in capsys.readouterr().err
        answers[0] = completion("Well.")
        for asked in (6, 0):
            before = len(server.requests)
            assert main([*COMPARE, *over]) == 1  # not one verdict
            assert len(server.requests) == before + asked
            assert "holds no verdict" in capsys.readouterr().err


def test_the_command_killed_and_gone_on_with(stellar: Stellar, folder: Path) -> None:
    """kill -9 in the middle of judging costs no judgement that had come."""
    held = threading.Event()

    def reply(request: dict[str, Any]) -> Reply:
        if len(server.requests) > 2 and not held.is_set():
            time.sleep(20)
        return fair(request)

    with judge_server(reply) as server:
        over = ["--judge", "openai", "--endpoint", server.url, "--judge-model", "gpt", "--workers", "1"]
        process = stellar.start(*COMPARE, *over)
        deadline = time.monotonic() + 60
        while len(server.requests) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        held.set()
        before = len(server.requests)
        done = stellar(*COMPARE, *over)
        assert len(server.requests) == before + 2
    assert "2 of 4 judgements were made before" in done.stderr
    assert re.search(r"losses +2", done.stdout)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--judge", "openai"], 2, "needs --endpoint"),
        (["--judge", "openai", "--endpoint", "x", "--judge-model", "m"], 2, "--endpoint is no URL"),
        (["--judge", "no.gguf"], 1, "no.gguf"),
        (["--judge", "no.gguf", "--endpoint", "http://x"], 2, "go with --judge openai"),
        (["--answers-only", "--judge", "human"], 2, "judges nothing"),
        (["--answers-only"], 1, "q:3: new.jsonl has no answer"),
        (["--answers-only", "--label", "x"], 2, "1 labels for 2"),
        (["--answers-only", "--label", "x", "--label", "x"], 2, "same label"),
        (["--answers-only", "--questions", "none.jsonl"], 1, "none.jsonl"),
        (["--answers-only", "--out", "q.jsonl"], 1, "q.jsonl"),
    ],
)
def test_wrong_command_lines(
    more: list[str], code: int, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    got = main([*COMPARE, *more])
    told = capsys.readouterr().err
    assert (got, said in told) == (code, True), told


def test_models_answer_turn_by_turn_and_a_local_model_judges(stellar: Stellar, folder: Path, spm_folder: Path) -> None:
    lines = [{"question_id": n, "turns": ["Hello", "And?", "你好"][: 1 + n % 3]} for n in range(5)]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    models = [spm_folder / "tiny-F32.gguf", spm_folder / "tiny-Q8_0.gguf"]
    hot = [
        "--temperature",
        "1.5",
        "--seed",
        "1",
        "--max-tokens",
        "6",
        "--threads",
        "1",
        "--ctx",
        "4096",
        "--parallel",
        "1",
    ]
    command = ["eval", "compare", *models, "--questions", "q.jsonl", *hot]
    first = stellar(*command, "--answers-only", "--limit", "3")
    assert first.returncode == 0, first.stderr
    log = folder / "evaluation" / "answers--tiny-F32.jsonl"
    text = log.read_text(encoding="utf-8")
    # As kill -9 leaves it in the middle of a conversation and of a line.
    cut = text[: text.rindex('{"key"') + 20]
    log.write_text(cut, encoding="utf-8")
    judge = ["--judge", spm_folder / "tiny-F32.gguf", "--judge-max-tokens", "16", "--judge-name", "tiny"]
    done = stellar(*command, *judge)
    assert done.returncode == 1, done.stderr  # there is not one verdict
    assert "2 of 5 questions were answered before" in done.stderr
    answers = {one["key"]: one["answers"] for one in read_log(log)[1]}
    assert {key: len(value) for key, value in answers.items()} == {f"q:{n}": 1 + n % 3 for n in range(5)}
    assert "the judgement was cut" in done.stderr  # a model with random weights says no verdict
    again = stellar(*command, *judge)
    assert "5 of 5 questions were answered before" in again.stderr
    assert "judgements made now" in again.stderr
    assert ": 0 judgements made now" in again.stderr
    changed = stellar(*command, "--answers-only", "--max-tokens", "7")
    assert changed.returncode == 2
    assert "max_tokens was 6, is 7" in changed.stderr


def test_a_disk_that_is_full_keeps_what_was_there(stellar: Stellar, folder: Path) -> None:
    with judge_server(fair) as server:
        over = f"--judge openai --endpoint {server.url} --judge-model gpt --workers 1"
        line = " ".join([*stellar.argv, *COMPARE, over])
        small = subprocess.run(
            ["bash", "-c", f"trap '' XFSZ; ulimit -f 1; {line}"],
            env=stellar.env,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert small.returncode == 1
        assert "too large" in small.stderr
        assert "Traceback" not in small.stderr
        done = stellar(*COMPARE, *over.split())
    assert re.search(r"losses +2", done.stdout), done.stderr
