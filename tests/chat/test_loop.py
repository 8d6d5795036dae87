"""The loop and the answers: streamed, interrupted, kept, saved; what a failure leaves."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chat_cases import Script, Talk, opened

from stellar_local.chat.loop import run
from stellar_local.chat.sessions import Store
from stellar_local.errors import RequestError
from stellar_local.texts import Texts

ENDLESS = {"temperature": 1.5, "min_p": 0.0, "seed": 1, "max_tokens": None}


def test_turns_stream_and_are_remembered(talk: Talk) -> None:
    talk.say("Who are you?", "", "   ", "And now?")
    assert talk.questions == ["Who are you?", "And now?"]
    assert talk.script.output == "".join(turn.answer + "\n" for turn in talk.chat.conversation.turns)


def test_a_message_that_does_not_fit_leaves_the_chat_alive(talk: Talk, spm_model: Path) -> None:
    assert talk.say("word " * 600, "hi")[0].startswith("[this does not fit in the context")
    assert talk.questions == ["hi"]
    with opened(spm_model, None, interactive=False) as script, pytest.raises(RequestError):
        script.say("word " * 600)


def test_files_stay_attached_until_a_message_was_answered(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fact " * 40)
    talk.say(f"/read {tmp_path / 'a.txt'}", "word " * 600)
    assert len(talk.chat.attached) == 1
    talk.say("short")
    assert talk.chat.attached == []
    assert talk.questions[0].startswith("fact fact")


class Pressed(Script):
    """A terminal at which Ctrl-C is pressed, or which is closed, once some of the answer is shown."""

    def __init__(self, what: type[BaseException], after: int = 3, interactive: bool = True) -> None:
        super().__init__(interactive)
        self.what, self.after = what, after

    def write(self, text: str) -> None:
        super().write(text)
        if len(self.output) > self.after and self.what is not GeneratorExit:
            what, self.what = self.what, GeneratorExit
            raise what


def test_ctrl_c_stops_the_answer_and_keeps_what_came(spm_model: Path, tmp_path: Path) -> None:
    with opened(spm_model, tmp_path / "sessions", **ENDLESS) as talk:
        talk.chat.terminal = talk.script = Pressed(KeyboardInterrupt)
        notes = talk.say("go on for ever", "again")
        assert notes[0] == "[interrupted]"
        first = talk.chat.conversation.turns[0]
        assert (first.finish, talk.questions) == ("cancelled", ["go on for ever", "again"])
        assert talk.script.output.startswith(first.answer)
        assert "[interrupted]" in talk.say("/history 1")[0]


def test_ctrl_c_before_the_first_token_forgets_the_question(spm_model: Path, tmp_path: Path) -> None:
    with opened(spm_model, tmp_path / "sessions") as talk:
        talk.say("One.")

        class Early(Script):
            def progress(self, text: str) -> None:
                self.progress = lambda text: None  # type: ignore[method-assign]
                raise KeyboardInterrupt

        talk.chat.terminal = talk.script = Early()
        talk.say("/regen")
        assert talk.questions == ["One."]
        assert talk.chat.conversation.turns[0].answer


@pytest.mark.parametrize("what", [SystemExit, KeyboardInterrupt])
def test_the_end_of_the_program_keeps_what_came(what: type[BaseException], spm_model: Path, tmp_path: Path) -> None:
    with opened(spm_model, tmp_path / "sessions", interactive=what is SystemExit, **ENDLESS) as talk:
        talk.chat.terminal = talk.script = Pressed(what, interactive=what is SystemExit)
        with pytest.raises(what):
            talk.say("go on for ever", "never asked")
        assert talk.chat.session is not None
        saved = Store(tmp_path / "sessions", Texts("en")).load(talk.chat.session.name)
    assert [turn.finish for turn in saved.turns] == ["cancelled"]
    assert saved.turns[0].answer


def test_each_turn_is_saved_at_once(talk: Talk, tmp_path: Path) -> None:
    store = Store(tmp_path / "sessions", Texts("en"))
    for count in (1, 2, 3):
        talk.say(f"Question {count}.")
        assert talk.chat.session is not None
        saved = store.load(talk.chat.session.name)
        assert [turn.question for turn in saved.turns] == talk.questions
        assert [turn.tokens for turn in saved.turns] == [turn.tokens for turn in talk.chat.conversation.turns]
    talk.say("/undo")
    assert len(store.load(talk.chat.session.name).turns) == 2  # type: ignore[union-attr]


@contextmanager
def no_room_for_files() -> Iterator[None]:
    """Files may not grow, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_session_that_cannot_be_saved_is_told_once(talk: Talk) -> None:
    talk.say("One.")
    with no_room_for_files():
        notes = [note for note in talk.say("Two.", "Three.") if "cannot be saved" in note]
        for line in ("/save kept", "/load anything"):
            assert talk.say(line)[-1].startswith("[this conversation could not be saved yet")
    assert len(notes) == 1
    assert talk.questions == ["One.", "Two.", "Three."]
    talk.say("Four.")
    assert len(talk.chat.store.load(talk.chat.session.name).turns) == 4  # type: ignore[union-attr]


def test_overflow_is_told(talk: Talk) -> None:
    long = "What is a parsec, and what is a galaxy? 什么是秒差距？"
    talk.say("/set logit_bias 2=-100")  # the end: an empty answer would not be kept
    notes = [note for note in talk.say(*[f"{number}. {long}" for number in range(14)]) if "context was full" in note]
    assert notes
    assert f"the oldest turns: {talk.chat.conversation.dropped}" in talk.say("/context")[-2]
    assert any("left out of the context" in note for note in talk.say("/history"))
    assert len(talk.questions) == 14
    talk.say("/set overflow shift")
    notes = talk.say(*[f"{number}. {long}" for number in range(14)])
    assert any("shifted out" in note for note in notes)


def test_placeholders_come_out_replaced(talk: Talk) -> None:
    """The template's identity; split over tokens by a grammar that lets them out a character at a time."""
    from dataclasses import replace

    runtime = talk.chat.runtime
    runtime.template = replace(runtime.template, identity={"[NAME]": "星语者", "[机构]": "星语调校局"})  # type: ignore[type-var]
    talk.say("/set max_tokens 60", '/grammar root ::= "I am [NAME] of [机构]." ', "Who?")
    assert talk.script.output == "I am 星语者 of 星语调校局.\n"
    assert talk.chat.conversation.turns[0].answer == "I am 星语者 of 星语调校局."
    assert talk.chat.last is not None and talk.chat.last.usage.completion_tokens > 8  # so it was split


def test_unknown_settings_of_a_session_are_left_out(talk: Talk, tmp_path: Path) -> None:
    import json

    talk.say("One.", "/save mine", "/set temperature 0.3", "/clear")
    path = tmp_path / "sessions" / "mine.json"
    record = json.loads(path.read_text())
    record["settings"] = {"temperature": 0.3, "top_p": "no number", "gone": 1}
    path.write_text(json.dumps(record))
    notes = talk.say("/set temperature default", "/load mine")
    assert talk.chat.conversation.sampling.temperature == 0.3
    assert sum("was left out" in note for note in notes) == 2
    assert talk.questions == ["One."]


def test_sessions_of_another_vocabulary(spm_model: Path, bpe_model: Path, tmp_path: Path) -> None:
    with opened(spm_model, tmp_path / "sessions") as talk:
        talk.say("One. 一。", "/save mine")
    with opened(bpe_model, tmp_path / "sessions") as talk:
        talk.say("/load mine", "Two. 二。")
        assert talk.questions == ["One. 一。", "Two. 二。"]
        assert talk.chat.conversation.turns[0].tokens == []


def test_the_input_s_end_is_the_chat_s(talk: Talk) -> None:
    run(talk.chat)
    assert talk.questions == []
    assert talk.chat.store is not None
    assert talk.chat.store.names() == []


def test_a_second_ctrl_c_loses_nothing(spm_model: Path, tmp_path: Path) -> None:
    """Real signals: one while the answer comes, one while what came is drained and saved."""
    import signal

    class Twice(Pressed):
        def end_answer(self) -> None:
            super().end_answer()
            signal.raise_signal(signal.SIGINT)

    with opened(spm_model, tmp_path / "sessions", **ENDLESS) as talk:
        talk.chat.terminal = talk.script = Twice(KeyboardInterrupt)
        assert talk.say("go on for ever")[0] == "[interrupted]"
        assert talk.chat.session is not None
        saved = Store(tmp_path / "sessions", Texts("en")).load(talk.chat.session.name)
        assert saved.turns[0].answer == talk.chat.conversation.turns[0].answer


def test_files_and_question_come_back_after_ctrl_c(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fact " * 40)
    talk.say(f"/read {tmp_path / 'a.txt'}")

    class Early(Script):
        def progress(self, text: str) -> None:
            self.progress = lambda text: None  # type: ignore[method-assign]
            raise KeyboardInterrupt

    talk.chat.terminal = talk.script = Early()
    talk.script.messages = ["Summarise."]
    run(talk.chat)
    if not talk.questions:  # the tiny model may have been quicker
        assert (len(talk.chat.attached), talk.script.drafts[-1]) == (1, "Summarise.")


def test_what_load_leaves_of_the_session_before(talk: Talk) -> None:
    talk.say(
        "One.", "/save mine", "/clear", "/set temperature 0.9", '/schema {"type": "integer"}', "Two.", "/load mine"
    )
    assert talk.chat.conversation.sampling.temperature == 0
    assert (talk.chat.structure, talk.chat.conversation.grammar, talk.chat.settings) == (None, None, {})


def test_every_setting_comes_back(talk: Talk, spm_model: Path, tmp_path: Path) -> None:
    values = {"logit_bias": "5=-2.5", "stop": "'a b' 。", "seed": "random", "ui_lang": "auto", "max_tokens": "7"}
    for name, (spec, _) in talk.chat.settable().items():
        least = "1" if spec.least is not None and spec.least > 0 else "0"
        talk.say(f"/set {name} {values.get(name) or (spec.choices[-1] if spec.choices else least)}")
    talk.say("/set ui_lang en", "/set mirostat 0", "One.", "/save all")
    settings = dict(talk.chat.settings)
    assert set(settings) == set(talk.chat.settable())
    talk.say("/clear")
    with opened(spm_model, tmp_path / "sessions") as other:
        assert not any("left out" in note for note in other.say("/load all"))
        assert other.chat.settings == settings


def test_memory_of_a_session_whose_oldest_turns_are_left_out(spm_model: Path, tmp_path: Path) -> None:
    """The KV file begins after them, and so does what is read again."""
    long = "What is a parsec, and what is a galaxy? 什么是秒差距？"
    with opened(spm_model, tmp_path / "sessions", logit_bias=("2=-100",)) as talk:
        talk.say(*[f"{number}. {long}" for number in range(9)], "/save mine")
        dropped, used = talk.chat.conversation.dropped, talk.chat.conversation.used()
    assert dropped
    with opened(spm_model, tmp_path / "sessions") as talk:
        notes = talk.say("/load mine")
        assert talk.chat.conversation.dropped == dropped
        assert notes[0] == f"session mine: turns 9, tokens {used}"
        restored = int(notes[1].removeprefix("KV memory of ").split()[0])
        assert restored >= used - 4  # but for the last token and what ends the answer
