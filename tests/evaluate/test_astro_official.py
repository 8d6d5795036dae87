"""The published scores against a second reading of the rules of the published script, faults and all; and ours."""

from __future__ import annotations

import random
from ast import literal_eval

import pytest

from stellar_local.evaluate.astro_qa import official, scoring
from stellar_local.evaluate.astro_qa.questions import MATCHING, MULTI, SINGLE_4

RANDOM = random.Random(8)


@pytest.mark.parametrize(
    ("right", "answer", "published", "ours"),
    [
        ("AB", "AB", 2.0, 2.0),
        ("AB", "BA", 2.0, 2.0),
        ("AB", "A", 0.5, 0.5),
        ("AB", "AAB", 1.5, 2.0),
        ("AB", "AAAAAAAAAA", 5.0, 0.5),
        ("AB", "ABC", 0.0, 0.0),
        ("AB", "", 0.0, 0.0),
        ("AB", "ABE", 2.0, 0.0),  # the script sees no E
        ("ABCD", "ABC", 1.5, 1.5),
        ("ABCDE", "ABCD", 2.0, 2.0),
        ("AB", "A、B。解释说明：C选项错误", 0.0, 0.0),
    ],
)
def test_points_of_a_multiple_choice(right: str, answer: str, published: float, ours: float) -> None:
    assert official.points(right, answer) == published == _points(right, answer)
    assert scoring.points(right, "".join(letter for letter in answer if letter in "ABCDE")) == ours


def _points(right: str, answer: str) -> float:
    """The rule as it is described: keep A to D; one not right gives 0; the same letters 2; else 0.5 for each."""
    kept = "".join(filter("ABCD".__contains__, answer))
    for letter in kept:
        if letter not in right:
            return 0
    return 2 if sorted(kept) == sorted(right) else 0.5 * len(kept)


def test_points_of_random_answers() -> None:
    for _ in range(500):
        right = "".join(sorted(RANDOM.sample("ABCD", RANDOM.randint(1, 4))))
        answer = "".join(RANDOM.choices("ABCDE ", k=RANDOM.randint(0, 6)))
        assert official.points(right, answer) == _points(right, answer)


def test_single_choices_over_five_runs() -> None:
    right = [RANDOM.choice("ABCD") for _ in range(40)]
    answers = [[RANDOM.choice(["A", " B", "C", "D", "", "答案是：A"]) for _ in range(5)] for _ in right]
    columns = [[own[run].strip() == gold for own, gold in zip(answers, right, strict=True)] for run in range(5)]
    found = official.choices(right, answers)
    assert found.top_1 == pytest.approx(sum(map(sum, columns)) / 40 / 5)
    assert found.top_any == pytest.approx(sum(map(any, zip(*columns, strict=True))) / 40)
    assert found.weighted == pytest.approx(sum(map(sum, columns)) / 5)
    assert official.choices(["A"], [["The answer is A"]]).top_1 == 0  # letters must stand alone


def _matching(right: list[str], answers: list[list[str]]) -> tuple[float, float]:
    """The script's loop as it is described: texts of tuples, a list a run, added once for each tuple looked at."""
    added: list[list[tuple[str, ...]]] = []
    top5: list[tuple[str, ...]] = []
    for run in range(5):
        here: list[tuple[str, ...]] = []
        for gold, own in zip(right, answers, strict=True):
            for given in literal_eval(own[run]):
                for wanted in literal_eval(gold):
                    if given[0] in wanted[0]:
                        whole = True
                        for place, item in enumerate(given):
                            whole = whole and item in wanted[place]
                        if whole:
                            here.append(given)
                            top5.append(given)
                added.append(here)
    return sum(len(set(added[run])) / 355 for run in range(5)) / 5, len(set(top5)) / 355


def test_matching_is_the_first_run_five_times() -> None:
    gold = [("哈勃望远镜", "1990"), ("牛顿", "1687"), ("伽利略", "1610")]
    good, bad = [gold, gold], [[("牛顿", "1990")] * 3, [("哈勃望远镜", "1687")] * 3]
    for runs in ([good, bad, bad, bad, bad], [bad, good, good, good, good]):
        answers = [[runs[run][number] for run in range(5)] for number in range(2)]
        found = official.matching([gold, gold], answers)
        assert found == pytest.approx(_matching([repr(gold)] * 2, [[repr(own) for own in one] for one in answers]))
        # Equal tuples of two questions count once; later runs count only in Top-5.
        assert found == pytest.approx((3 / 355 if runs[0] is good else 0, 3 / 355))
    assert official.matching([gold], [[[("哈勃", "1990")]]])[0] == pytest.approx(1 / 355)  # a part of an item
    assert scoring.matched(gold, [("哈勃", "1990")]) == 0
    assert scoring.matched([*gold, gold[0]], [gold[0], gold[0], gold[0]]) == 2


def test_matching_of_random_answers() -> None:
    items = ["a", "ab", "b", "bc", "c", "ca"]
    for _ in range(50):
        gold = [[(RANDOM.choice(items), RANDOM.choice(items)) for _ in range(4)] for _ in range(5)]
        said = [[[(RANDOM.choice(items), RANDOM.choice(items)) for _ in range(4)] for _ in range(5)] for _ in gold]
        literal = _matching([repr(one) for one in gold], [[repr(own) for own in one] for one in said])
        assert official.matching(gold, said) == pytest.approx(literal)


def test_a_model_that_pairs_nothing_gets_nothing() -> None:
    assert official.matching([[("a", "b")]], [[[], []]]) == (0, 0)


def _bleu_1(reference: list[str], words: list[str]) -> float:
    """BLEU-1 by its definition: clipped unigram precision and the brevity penalty."""
    from math import exp

    if not words:
        return 0.0
    hits = sum(min(words.count(word), reference.count(word)) for word in set(words))
    return hits / len(words) * (1 if len(words) > len(reference) else exp(1 - len(reference) / len(words)))


def _rouge(reference: list[str], words: list[str], size: int) -> float:
    """ROUGE-N's F by the rouge package's definition: of sets of runs of words."""
    one, other = ({tuple(text[at : at + size]) for at in range(len(text) - size + 1)} for text in (reference, words))
    if not one or not other or not one & other:
        return 0.0
    precision, recall = len(one & other) / len(other), len(one & other) / len(one)
    return 2 * precision * recall / (precision + recall)


def test_texts_in_both_languages() -> None:
    import jieba
    from sacrebleu import sentence_chrf

    pairs = [
        ("恒星时是以地球相对于恒星的自转周期为基准的时间计量系统。", "恒星时是天文学中的一种时间系统，以恒星为基准。"),
        ("A parsec is about 3.26 light years.", "The parsec is a unit of length of about 3.26 light years."),
    ]
    for reference, answer in pairs:
        found = official.text([reference], [[answer]])
        wanted, said = (" ".join(jieba.cut(text)).split() for text in (reference, answer))
        assert found.bleu_1 == pytest.approx(_bleu_1(wanted, said), abs=1e-6)
        assert found.rouge_1 == pytest.approx(_rouge(wanted, said, 1), abs=1e-6)
        assert found.rouge_2 == pytest.approx(_rouge(wanted, said, 2), abs=1e-6)
        assert found.chrf == pytest.approx(sentence_chrf(answer, [reference]).score)
        whole = 100 * (0.3 * found.bleu_1 + 0.1 * found.rouge_1 + 0.15 * found.rouge_2 + 0.1 * found.rouge_l)
        assert found.score == pytest.approx(whole + 0.35 * found.chrf)
    same = official.text([pairs[0][0]], [[pairs[0][0]]])
    assert same.score == pytest.approx(100)


@pytest.mark.parametrize("answer", ["", ".", " "])
def test_answers_that_rouge_cannot_take(answer: str) -> None:
    found = official.text(["恒星时"], [[answer, "恒星时"]])
    assert found.failed == 1
    assert found.rouge_1 == pytest.approx(0.5)


def test_long_answers_do_not_break_rouge() -> None:
    text = " ".join(RANDOM.choices("abcdefgh", k=540))
    assert official.text([text], [[text + " x"]]).rouge_l > 0.9


def test_the_composite() -> None:
    assert official.composite({SINGLE_4: 10.0, MULTI: 3.0, MATCHING: 0.5}) == pytest.approx(10 + 3 + 0.5 * 355 * 3)
    assert sum(official.ROWS.values()) - official.ROWS[MATCHING] + official.PAIRS == 2709  # questions of version 1
