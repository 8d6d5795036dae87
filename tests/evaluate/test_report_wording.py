"""What a report calls things, and texts of models that stay text in Markdown."""

from __future__ import annotations

import pytest

from stellar_local.evaluate.report import blocks
from stellar_local.evaluate.report.markdown import markdown
from stellar_local.evaluate.report.wording import known
from stellar_local.texts import Texts

ENGLISH = Texts("en")


def test_what_tasks_call_their_figures_has_a_chinese_name() -> None:
    tries = ("single-4", "single-5", "judgment", "matching")
    overlap = ("bleu_1", "rouge_1", "rouge_2", "rouge_l", "score")
    names = [
        *(f"right in any of {n} samples" for n in (2, 3, 5, 10)),
        *(f"{kind} Top-{n}" for kind in tries for n in (1, 3, 5)),
        *(f"{kind} {name}" for kind in ("terminology", "short-answer") for name in overlap),
        *("multi points", "mean score of A", "mean score of B", "won from the first place", "the two orders disagree"),
        *("agreement", "agreement without ties", "Cohen's kappa"),
        *("judge, prompt tokens", "judge, completion tokens", "judge, cost"),
    ]
    chinese = Texts("zh")
    told = [known(chinese, "metric", one) for one in names]
    assert not [one for one in told if one.isascii()]
    assert len(set(told)) == len(names)
    assert known(chinese, "metric", "right in any of 10 samples") == "10 次采样任一正确"
    assert known(ENGLISH, "metric", "single-4 Top-5") == "Single choice, 4 options: Top-5"
    groups = ("the majority of the others", "generation", "likelihood", "with", "without")
    assert not [one for one in groups if known(chinese, "group", one).isascii()]
    assert known(chinese, "metric", "something 7 else") == "Something 7 else"


@pytest.mark.parametrize("begun", ["- item", "+ item", "1. item", "12) item", "Title\n===", "Title\n---", "  - item"])
def test_a_line_of_an_answer_begins_no_list_and_underlines_nothing(begun: str) -> None:
    from markdown_it import MarkdownIt

    example = blocks.Example("t", f"{begun}\n{begun}", "", ())
    page = blocks.Page("p", "en", (), (blocks.Section("s", "S", (blocks.Text(begun), example)),), "end")
    kinds = [token.type for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown(page, ENGLISH))]
    assert kinds.count("bullet_list_open") == 1  # the list of contents
    assert "ordered_list_open" not in kinds
    assert kinds.count("heading_open") == 2
