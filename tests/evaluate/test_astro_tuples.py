"""Which items answers pair: tuples, arrows, lists, tables, whole texts."""

from __future__ import annotations

import pytest

from stellar_local.evaluate.astro_qa.tuples import pairs

TWO = [["北斗七星属于", "牛郎星位于", "M82位于"], ["天鹰座", "大熊座", "猎户座（参宿四）"]]
WANTED = {("北斗七星属于", "大熊座"), ("牛郎星位于", "天鹰座")}
THREE = [
    ["1755", "1838", "2019年"],
    ["Kant", "Bessel", "Starlink (SpaceX)"],
    ["Island universes", "Parallax of 61 Cygni", "60 satellites"],
]


@pytest.mark.parametrize(
    "answer",
    [
        "匹配组1：('北斗七星属于', '大熊座')\n匹配组2：('牛郎星位于', '天鹰座')",
        "[('北斗七星属于', '大熊座'), ('牛郎星位于', '天鹰座')]",
        "北斗七星属于 —— 大熊座\n牛郎星位于 —— 天鹰座",
        "1. 北斗七星属于 → 大熊座\n2. 牛郎星位于 -> 天鹰座",
        "- 北斗七星属于：大熊座。\n- 牛郎星位于：天鹰座。",
        "| 组别1 | 组别2 |\n|---|---|\n| 北斗七星属于 | 大熊座 |\n| 牛郎星位于 | 天鹰座 |",
        "**北斗七星属于**大熊座；**牛郎星位于**天鹰座",
        "北斗七星属于\n大熊座\n牛郎星位于\n天鹰座",
        "大熊座：北斗七星属于\n天鹰座：牛郎星位于",
        "组别1：北斗七星属于、牛郎星位于、M82位于\n组别2：天鹰座、大熊座\n匹配组1：('北斗七星属于','大熊座')\n匹配组2：('牛郎星位于','天鹰座')",
    ],
)
def test_two_groups(answer: str) -> None:
    assert set(pairs(answer, TWO).tuples) == WANTED


def test_three_groups_and_numbers_within_numbers() -> None:
    answer = (
        "Match 1: ('1755', 'Kant', 'Island universes')\n"
        "Match 2: ('1838', 'Bessel', 'Parallax of 61 Cygni')\n"
        "Match 3: (2019年, Starlink (SpaceX), 60 satellites)"
    )
    assert pairs(answer, THREE).tuples == (
        ("1755", "Kant", "Island universes"),
        ("1838", "Bessel", "Parallax of 61 Cygni"),
        ("2019年", "Starlink (SpaceX)", "60 satellites"),
    )
    assert pairs("('1755', 'Kant')", THREE).tuples == ()
    assert pairs("in 17551 Kant, Island universes", THREE).tuples == ()


def test_each_item_is_used_once() -> None:
    every = "\n".join(f"{one} - {other}" for one in TWO[0] for other in TWO[1])
    found = pairs(every, TWO)
    assert found.tuples == (("北斗七星属于", "天鹰座"), ("牛郎星位于", "大熊座"), ("M82位于", "猎户座（参宿四）"))
    twice = [["2019年", "2019年"], ["x星", "y星"]]
    assert pairs("2019年: x星\n2019年: y星", twice).tuples == (("2019年", "x星"), ("2019年", "y星"))
    assert pairs("2019年: x星\n2019年: x星", twice).tuples == (("2019年", "x星"),)


@pytest.mark.parametrize("answer", ["", " ", "我不知道", "1-B, 2-A", "北斗七星属于、牛郎星位于\n天鹰座、大熊座"])
def test_no_pairs(answer: str) -> None:
    found = pairs(answer, TWO)
    assert found.tuples == ()
    assert found.why
