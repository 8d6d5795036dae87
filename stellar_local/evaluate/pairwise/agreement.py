"""How far judges agree: the share of equal verdicts with and without ties, Cohen's kappa, and the majority.

After FastChat's compute_agreement (arXiv 2306.05685): without ties only those questions count on which neither of two
judges said tie. Knows verdicts only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .verdicts import TIE

Verdicts = Mapping[str, str]  # who won, "a", "b" or "tie", by what was judged


@dataclass(frozen=True)
class Agreement:
    """Of two judges: the questions that both judged and those of them that both decided, and the equal ones of each.

    `kappa` is Cohen's over the three verdicts, None where it is undefined: chance alone would agree always.
    """

    both: int
    equal: int
    decided: int
    decided_equal: int
    kappa: float | None


def agreement(one: Verdicts, other: Verdicts) -> Agreement:
    """How far two judges agree."""
    pairs = [(one[key], other[key]) for key in one if key in other]
    decided = [pair for pair in pairs if TIE not in pair]
    equal = sum(first == second for first, second in pairs)
    return Agreement(
        len(pairs), equal, len(decided), sum(first == second for first, second in decided), _kappa(pairs, equal)
    )


def _kappa(pairs: Sequence[tuple[str, str]], equal: int) -> float | None:
    """Cohen's kappa (J. Cohen, 1960): the agreement beyond that of two who answer by chance, each with their shares."""
    firsts, seconds = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    by_chance = sum(firsts[verdict] * seconds[verdict] for verdict in firsts)
    total = len(pairs) ** 2
    return (equal * len(pairs) - by_chance) / (total - by_chance) if total > by_chance else None


def majority(judges: Sequence[Verdicts]) -> dict[str, str]:
    """The verdict that most judges gave on each question that any of them judged; a tie where no one verdict leads."""
    found: dict[str, str] = {}
    for key in dict.fromkeys(key for verdicts in judges for key in verdicts):
        counts = Counter(verdicts[key] for verdicts in judges if key in verdicts).most_common()
        leads = len(counts) == 1 or counts[0][1] > counts[1][1]
        found[key] = counts[0][0] if leads else TIE
    return found
