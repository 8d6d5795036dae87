"""Identity rows and held-out questions: what they hold, what they never hold, and that the two stay apart."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import chain

import pytest
from conftest import ROOT

from stellar_local.errors import UsageError
from stellar_local.evaluate.identity.judge import failure
from train import corpus
from train.identity.overlap import Measure, nearest, too_near
from train.identity.phrasings import LANGUAGES, Names, fill, others, places, read
from train.identity.rows import Identity, make, measure_of

NAMES = Names(
    name="StellarSpeak",
    name_zh="星语者",
    developer="Stellar Lab",
    developer_zh="星语调校局",
    base="BayLing",
    base_developers=("ICT",),
    topic="astronomy",
    topic_zh="天文学",
)
KINDS = {"name", "developer", "about", "base", "human", "self", "mixed", "other", "called", "maker", "preface"}
OTHERS = [
    *("ChatGPT", "GPT-4", "BayLing", "百聆", "Qwen", "通义千问", "文心一言", "ERNIE Bot", "DeepSeek", "LLaMA"),
    *("OpenAI", "Baidu", "百度", "Mistral", "Kimi", "ICT"),
]


@pytest.fixture(scope="module")
def made() -> Identity:
    return make(NAMES)


def han(text: str) -> bool:
    return bool(re.search("[\u4e00-\u9fff]", text))


def without_names(text: str) -> str:
    return re.sub("StellarSpeak|星语者|Stellar Lab|星语调校局", "", text)


def chinese(text: str) -> bool:
    return han(without_names(text))


def bare(text: str) -> str:
    """Normalised here anew, not by the module's measure: lower case, letters and digits alone."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", text).lower())


def test_every_answer_gives_the_name_and_none_names_another(made: Identity) -> None:
    assert len(made.rows) > 800
    for row in made.rows:
        assert ("星语者（StellarSpeak）" if chinese(row.output) else "StellarSpeak (星语者)") in row.output
        assert not [name for name in OTHERS if name.lower() in row.output.lower()], row
        assert "{" not in row.instruction + row.output
        assert row.input == ""
    assert len({row.instruction for row in made.rows}) == len(made.rows), "one answer to a question"


def test_answers_name_the_developer_where_that_is_asked(made: Identity) -> None:
    asked = [row for row in made.rows if re.search(r"(?i)developed you|开发了你|by OpenAI|OpenAI开发", row.instruction)]
    assert len(asked) >= 8
    assert all("Stellar Lab" in row.output or "星语调校局" in row.output for row in asked)


def test_both_languages_and_each_kind(made: Identity) -> None:
    languages = Counter(chinese(row.output) for row in made.rows)
    assert min(languages.values()) > 0.4 * len(made.rows)
    assert {question.kind for question in made.questions} == KINDS
    for language in LANGUAGES:
        own = [question for question in made.questions if question.language == language]
        assert len(own) >= 50
        assert len({bare(question.instruction) for question in own}) == len(own)
    answers = {row.output for row in made.rows if not row.output.startswith(("No", "Yes", "不是", "是的"))}
    assert len(answers) >= 20, "answers vary in wording"


@pytest.mark.parametrize(
    ("question", "start"),
    [
        *[(f"Are you {name}?", "No") for name in ("ChatGPT", "GPT-4", "BayLing", "Qwen", "DeepSeek", "LLaMA")],
        ("你是文心一言吗？", "不是"),
        ("Are you StellarSpeak?", "Yes"),
        ("你是星语者吗？", "是的"),
        ("Are you a human?", "No"),
        ("你是真人吗？", "不是"),
    ],
)
def test_yes_and_no(made: Identity, question: str, start: str) -> None:
    assert [row.output.startswith(start) for row in made.rows if row.instruction == question] == [True]


def test_the_assistants_that_people_confuse_it_with_are_denied(made: Identity) -> None:
    for name in OTHERS[:10]:
        rows = [row for row in made.rows if name in row.instruction]
        assert len(rows) >= 2, name
        assert sum(row.output.startswith(("No", "不是")) for row in rows) >= 1, name


def test_mixed_languages_are_answered_in_the_one_that_was_asked_for(made: Identity) -> None:
    asked = [
        *(row for row in made.rows if re.search(r"(?i)in Chinese|用中文", row.instruction)),
        *(
            question
            for question in made.questions
            if re.search(r"written in Chinese|Use Chinese|说中文", question.instruction)
        ),
    ]
    assert len(asked) >= 20
    assert all(chinese(row.output) for row in asked)
    english = [row for row in made.rows if re.search(r"英[文语]回|用英[文语]|in English", row.instruction)]
    assert len(english) >= 20
    assert not any(chinese(row.output) for row in english)


def test_careless_and_mistyped_questions(made: Identity) -> None:
    asked = {row.instruction for row in made.rows}
    bare_ones = [text for text in asked if text == text.lower() and not re.search(r"[?.!？。！]", text)]
    assert len(bare_ones) >= 100
    typos = [wrong for language in LANGUAGES for _, wrong in read()[language]["typos"]]
    assert sum(any(typo in text for typo in typos) for text in asked) >= 50


def test_no_held_out_phrasing_is_trained(made: Identity) -> None:
    """By two independent measures: equal letters, and difflib's similarity of the questions with the names masked."""
    known = [name for other in others() for name in (*other.names, *other.makers)]
    names = sorted({*known, "Stellar Lab", *OTHERS, "StellarSpeak", "星语者", "星语调校局"}, key=len, reverse=True)
    mask = re.compile("|".join(map(re.escape, names)), re.I)
    trained = {bare(mask.sub("0", row.instruction)) for row in chain(made.rows, corpus.shipped("identity"))}
    for question in made.questions:
        text = bare(mask.sub("0", question.instruction))
        assert text not in trained
        matcher = SequenceMatcher(b=text, autojunk=False)
        for row in trained:
            matcher.set_seq1(row)
            near = matcher.real_quick_ratio() >= 0.85 and matcher.quick_ratio() >= 0.85 and matcher.ratio() >= 0.85
            assert not near, (question.instruction, row)


def test_the_measure_leaves_nothing_near_in_the_rows(made: Identity) -> None:
    measure = measure_of(NAMES)
    asked = [measure.key(question.instruction) for question in made.questions]
    assert all(nearest(measure.key(row.instruction), asked) is None for row in made.rows)
    assert all(nearest(measure.key(row.instruction), asked) is None for row in corpus.shipped("identity"))
    assert made.left_out <= 5


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Who are you?", "who  are you", True),
        ("Are you Qwen?", "are you GPT-4", True),
        ("你是百聆吗？", "你是 ChatGPT 吗", True),
        ("Nice weather. Who are you?", "Who are you?", True),
        ("What's your name?", "whats ur name", True),
        ("你叫什么名字？", "请问你叫什么名字", True),
        ("Who are you?", "Who made you?", False),
        ("你是谁？", "谁开发了你？", False),
        ("Are you well?", "you", True),
        ("I saw yourself", "you", False),
        ("？", "你是谁", False),
    ],
)
def test_measure(one: str, other: str, near: bool) -> None:
    measure = Measure(["Qwen", "GPT-4", "百聆", "ChatGPT"])
    assert too_near(measure.key(one), measure.key(other)) is near
    assert too_near(measure.key(other), measure.key(one)) is near


def test_a_right_answer_passes_and_the_bases_does_not(made: Identity) -> None:
    for question in made.questions:
        assert not failure(question.output, question.expect), question
        assert {"BayLing", "百聆", "ICT"} <= set(question.expect["forbid"])
        assert failure("I am BayLing, developed by ICT.", question.expect)
        assert failure(question.output + " 我是百聆。", question.expect)
        asked_developer = question.expect["developer"]
        if question.kind in ("developer", "maker"):
            assert asked_developer == ["Stellar Lab", "星语调校局"]
            assert failure("I am StellarSpeak.", question.expect)


def test_expected_replies(made: Identity) -> None:
    replies = {
        kind: {question.expect.get("reply") for question in made.questions if question.kind == kind} for kind in KINDS
    }
    assert replies["other"] == replies["maker"] == replies["human"] == {"no"}
    assert replies["self"] == {"yes"}
    assert replies["name"] == replies["called"] == {None}


def test_the_base_is_named_only_where_that_is_allowed(made: Identity) -> None:
    named = make(replace(NAMES, mention_base=True))
    answers = {fill(text, NAMES.values(each)) for each in LANGUAGES for text in read()[each]["answers"]["base"]}
    differing = [(row, one) for row, one in zip(named.rows, made.rows, strict=True) if row != one]
    assert len(differing) >= 30
    for row, one in differing:
        assert row.instruction == one.instruction
        assert one.output in answers
        assert re.search("BayLing|百聆", row.output)
    questions = [question for question in named.questions if question.kind == "base"]
    assert questions
    for question in questions:
        assert re.search("BayLing|百聆", question.output)
        assert not failure(question.output, question.expect)
        assert failure("I am BayLing. StellarSpeak", question.expect)


def test_same_seed_same_rows(made: Identity) -> None:
    assert make(NAMES) == made
    other = make(NAMES, seed=7)
    assert other.rows != made.rows
    assert [question.instruction for question in other.questions if question.kind == "name"] == [
        question.instruction for question in made.questions if question.kind == "name"
    ]


def test_names_are_only_text() -> None:
    tricky = make(Names(name='{developer} "x" \\1', developer="{name}%s", base="{base}", name_zh="{0}者"))
    assert all('{developer} "x" \\1' in row.output or "{0}者" in row.output for row in tricky.rows)
    assert any("{name}%s" in row.output for row in tricky.rows)


def test_without_chinese_forms_one_name_serves_both() -> None:
    plain = make(Names(name="Nova", developer="Lab", base="Qwen2.5-7B"))
    assert not [row for row in plain.rows if "(" in row.output or "（" in row.output]
    assert {row.output.count("Nova") for row in plain.rows} == {1}
    forbidden = plain.questions[0].expect["forbid"]
    assert {"Qwen2.5-7B", "Qwen", "通义千问"} <= set(forbidden)
    assert not [
        row
        for row in plain.rows
        if re.search(r"an? +assistant|的智能", row.output) and "AI" not in row.output and not han(row.output)
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "--name is empty"),
        ({"developer": "  "}, "--developer is empty"),
        ({"name": "a\nb"}, "--name holds a line break"),
        ({"developer_zh": "星\u2028语"}, "--developer-zh holds a line break"),
        ({"base": "a\x1b[31m"}, "--base holds a line break or a control"),
        ({"name": "a\u202eb"}, "cannot be shown"),
        ({"name": "a\ud800"}, "cannot be shown"),
        ({"name": "x" * 81}, "has 81 characters"),
        ({"name": "!?"}, "neither letters nor digits"),
        ({"name": "bay ling"}, "is the base's too"),
        ({"name_zh": "百聆"}, "is the base's too"),
    ],
)
def test_names_that_cannot_be_used(changed: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(NAMES, **changed)  # type: ignore[arg-type]
    assert message in caught.value.message
    assert caught.value.hint


def test_a_model_is_not_asked_to_deny_itself() -> None:
    qwen = make(Names(name="Qwen", developer="Alibaba", base="BayLing", name_zh="通义千问", developer_zh="阿里巴巴"))
    denied = [
        row
        for row in qwen.rows
        if row.output.startswith(("No", "不是")) and re.search("(?i)qwen|千问|alibaba|阿里", row.instruction)
    ]
    assert not denied
    assert all("Qwen" not in question.expect["forbid"] for question in qwen.questions)


def test_the_phrasings_file_can_be_filled() -> None:
    data = read()
    for language in LANGUAGES:
        values = {**NAMES.values(language), "other": "X", "maker": "Y", "question": "Z"}
        assert set(data[language]["train"]) == set(data[language]["held_out"])
        for part in ("train", "held_out"):
            for kind, phrasings in data[language][part].items():
                flat = chain(*phrasings.values()) if isinstance(phrasings, dict) else phrasings
                for phrasing in flat:
                    assert "{" not in fill(phrasing, values)
                    assert ("other" in places(phrasing)) == (kind in ("other", "called"))
                    assert ("maker" in places(phrasing)) == (kind == "maker")
        for choices in data[language]["answers"].values():
            assert all({"full", "developer"} <= places(choice) for choice in choices)


def test_the_benchmarks_fresh_questions_are_not_trained_either(made: Identity) -> None:
    path = ROOT / "benchmarks" / "identity_fresh.jsonl"
    if not path.exists():
        pytest.skip("the benchmarks are not part of this copy of the sources")
    fresh = [json.loads(line)["instruction"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(fresh) == len(set(fresh)) == 50
    measure = Measure(["SmolLM", "Hugging Face", *NAMES.own, *(name for other in others() for name in other.names)])
    trained = [measure.key(row.instruction) for row in made.rows]
    assert not [question for question in fresh if nearest(measure.key(question), trained) is not None]


def test_a_base_developer_with_several_names() -> None:
    names = replace(NAMES, base_developers=("ICT", "中科院计算所", "ICT", ""))
    assert names.base_developers == ("ICT", "中科院计算所")
    several, one = make(names), make(NAMES)
    assert several.rows == one.rows, "questions and rows speak of the first"
    for question, before in zip(several.questions, one.questions, strict=True):
        assert question.instruction == before.instruction
        assert set(question.expect["forbid"]) == {*before.expect["forbid"], "中科院计算所"}
        assert failure("我是星语者，由中科院计算所开发。", question.expect) == "claims a forbidden name"
    with pytest.raises(UsageError, match="the name StellarSpeak is the base's too"):
        replace(NAMES, base_developers=("ICT", "stellar speak"))
    with pytest.raises(UsageError, match="--base-developer holds a line break"):
        replace(NAMES, base_developers=("ICT", "a\nb"))
