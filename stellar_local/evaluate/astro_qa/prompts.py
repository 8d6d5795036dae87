"""How each kind of question is put, in Chinese and English: one fixed wording, near to the published one.

The answer's first words are fixed too, so that options can be rated as what follows them. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import questions
from .questions import Question

_CHOICE = {
    "zh": (
        "请仔细阅读以下天文学科目的{what}题，从给出的选项中选出{which}，并简要说明理由。{note}\n"
        "题目：{asked}\n选项：\n{options}\n"
        "请严格按照以下格式回答：第一行写“答案是：”和{form}，第二行写“解释说明：”和选择的理由。"
    ),
    "en": (
        "Read this {what} question on astronomy carefully, choose {which} among the options, and explain briefly why. "
        "{note}\nQuestion: {asked}\nOptions:\n{options}\n"
        'Answer strictly in this format: on the first line "The answer is:" and {form}, on the second line '
        '"Explanation:" and the reason.'
    ),
}
_SINGLE = {
    "zh": {"what": "单选", "which": "正确的一项", "note": "只有一个选项正确。", "form": "正确选项的字母"},
    "en": {
        "what": "single-choice",
        "which": "the correct one",
        "note": "Exactly one option is correct.",
        "form": "the letter of the correct option",
    },
}
_MULTI = {
    "zh": {
        "what": "多选",
        "which": "所有正确的选项",
        "note": "可能有一个或几个选项正确。",
        "form": "所有正确选项的字母（用顿号隔开）",
    },
    "en": {
        "what": "multiple-choice",
        "which": "all correct ones",
        "note": "One or more options are correct.",
        "form": "the letters of all correct options, separated by commas",
    },
}
_JUDGMENT = {
    "zh": (
        "请判断下面这句天文学方面的陈述是否正确，并严格按照以下格式回答：\n如果陈述正确，请回复：“该陈述是正确的。”\n"
        "如果陈述错误，请回复：“该陈述是错误的。”\n陈述内容：{asked}"
    ),
    "en": (
        "Judge the following statement on astronomy, and answer strictly in this format:\n"
        'If the statement is true, answer: "The statement is true."\n'
        'If the statement is false, answer: "The statement is false."\nStatement: {asked}'
    ),
}
_FREE = {
    ("zh", questions.TERMINOLOGY): "以下是天文学科目的术语：{asked}，请解释其含义{length}。",
    (
        "en",
        questions.TERMINOLOGY,
    ): "The following is a term from astronomy: {asked}. Please explain it{length}.",
    ("zh", questions.SHORT_ANSWER): "以下是天文学科目的简答题：{asked}\n请作答{length}。",
    ("en", questions.SHORT_ANSWER): "The following is a question on astronomy: {asked}\nPlease answer it{length}.",
}
_LENGTH = {"zh": "，把回复控制在{count}个汉字左右", "en": ", and keep the response to about {count} characters"}
_MATCHING = {
    "zh": (
        "请找出以下{number}组天文学内容之间最合适的匹配关系。同一组内的内容不能相互匹配；每个匹配组从每一组各取一项，"
        "每一项只用一次。\n{groups}\n请严格按照以下格式逐行回答，不要有任何多余的输出：\n{form}"
    ),
    "en": (
        "Find out what belongs together in the following {number} groups on astronomy. Items of one group do not match "
        "one another; each match takes one item from each group, and each item is used once.\n{groups}\n"
        "Answer strictly in this format, line by line, and write nothing else:\n{form}"
    ),
}
_GROUP = {"zh": "组别{number}：{items}", "en": "Group {number}: {items}"}
_MATCH = {
    "zh": ("匹配组{number}：({items})", "'组别{number}的一项'"),
    "en": ("Match {number}: ({items})", "'item of group {number}'"),
}


@dataclass(frozen=True)
class Options:
    """What the answer begins with, and how it may go on: the text of each option by the answer that it means."""

    begun: str
    texts: dict[str, str]


def put(question: Question) -> str:
    """The text that a question is asked with. Values are inserted once, as they are: braces in them stay braces."""
    language = question.language
    if question.kind in (*questions.SINGLE, questions.MULTI):
        words = (_MULTI if question.kind == questions.MULTI else _SINGLE)[language]
        options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
        return _CHOICE[language].format(asked=question.asked, options=options, **words)
    if question.kind == questions.JUDGMENT:
        return _JUDGMENT[language].format(asked=question.asked)
    if question.kind == questions.MATCHING:
        return _matching(question)
    if question.prompt:
        return question.prompt  # the published one
    length = _LENGTH[language].format(count=question.count) if question.count else ""
    return _FREE[language, question.kind].format(asked=question.asked, length=length)


def _matching(question: Question) -> str:
    language = question.language
    groups = [
        _GROUP[language].format(number=number, items=("、" if language == "zh" else ", ").join(map(repr, group)))
        for number, group in enumerate(question.groups, 1)
    ]
    match, item = _MATCH[language]
    shape = ", ".join(item.format(number=number) for number in range(1, len(question.groups) + 1))
    form = [match.format(number=number, items=shape) for number in range(1, len(question.pairs) + 1)]
    return _MATCHING[language].format(number=len(groups), groups="\n".join(groups), form="\n".join(form))


def options_of(question: Question) -> Options | None:
    """How the answers to a question can be rated; None for kinds whose answers are no few fixed ones.

    English options begin with the blank before them, as tokenizers want it.
    """
    chinese = question.language == "zh"
    if question.kind in questions.SINGLE:
        begun, blank = ("答案是：", "") if chinese else ("The answer is:", " ")
        return Options(begun, {letter: blank + letter for letter in question.options})
    if question.kind == questions.JUDGMENT:
        if chinese:
            return Options("该陈述是", {"true": "正确的", "false": "错误的"})
        return Options("The statement is", {"true": " true", "false": " false"})
    return None
