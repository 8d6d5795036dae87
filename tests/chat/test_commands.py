"""Every command, by its effect on the chat; and what a command that fails leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_cases import Talk, opened

from stellar_local.chat.loop import run
from stellar_local.chat.table import COMMANDS, suggestions
from stellar_local.errors import RequestError, StellarError, UsageError

NAMES = [
    "help",
    "exit",
    "clear",
    "undo",
    "regen",
    "continue",
    "edit",
    "history",
    "context",
    "system",
    "set",
    "template",
    "lora",
    "model",
    "save",
    "load",
    "sessions",
    "rename",
    "delete",
    "export",
    "copy",
    "read",
    "schema",
    "grammar",
    "stats",
    "tokens",
    "seed",
    "plan",
]


def test_the_table_has_them_all() -> None:
    assert {name[1:] for name in COMMANDS} == set(NAMES)


def test_help_lists_every_command_and_explains_one(talk: Talk) -> None:
    shown = " ".join(" ".join(talk.say("/help")).split())  # as it was before lines were broken
    for one in COMMANDS.values():
        assert one.usage in shown
        assert one.help(talk.chat.texts) in shown
    assert talk.say("/help undo") == ["/undo [N]\n  take back the last turn, or the last N"]
    assert talk.say("/help /undo") == talk.say("/? undo")
    assert talk.say("/help nonsense")[0].startswith("[unknown command nonsense")


@pytest.mark.parametrize("line", ["/exit", "/EXIT", "/quit", "/bye", "!exit", " !exit "])
def test_ways_to_leave(line: str, talk: Talk) -> None:
    talk.script.messages = [line, "never read"]
    run(talk.chat)
    assert talk.script.messages == ["never read"]


@pytest.mark.parametrize("line", ["/clear", "q", "!reset", "/reset"])
def test_ways_to_clear(line: str, talk: Talk) -> None:
    talk.say("One.", "Two.")
    name = talk.chat.session.name if talk.chat.session else ""
    assert talk.say(line) == [f"[the conversation is cleared; what was said is saved as {name}]"]
    assert talk.questions == []
    talk.say("Three.")
    assert talk.chat.session is not None and talk.chat.session.name != name
    assert talk.chat.store is not None
    assert [len(one.turns) for one in map(talk.chat.store.load, (name, talk.chat.session.name))] == [2, 1]


def test_an_empty_line_does_nothing(talk: Talk) -> None:
    assert talk.say("", "   ", "\n", "One.") == ["[the answer was cut at max_tokens; /continue goes on]"]
    assert talk.questions == ["One."]


def test_messages_that_begin_with_a_slash(talk: Talk) -> None:
    assert talk.say("/usr/bin is a folder")[0].startswith(
        "[unknown command /usr/bin; a message that begins with a slash"
    )
    talk.say("//usr/bin is a folder")
    talk.say("// a comment", "/* of\ntwo lines */", "//a\n//b", "/system\nBe brief.")
    assert talk.questions == ["/usr/bin is a folder", "// a comment", "/* of\ntwo lines */", "//a\n//b"]
    assert talk.chat.conversation.system == "Be brief."


def test_undo(talk: Talk) -> None:
    talk.say("One.", "Two.", "Three.")
    assert talk.say("/undo") == ["[turns taken back: 1, from: Three.]"]
    assert talk.say("/undo 2") == ["[turns taken back: 2, from: One.]"]
    assert talk.say("/undo")[0].startswith("[there are not as many turns")
    assert talk.say("/regen") == talk.say("/continue") == ["[there is no question yet]"]
    assert talk.say("/clear the table") == ["[/clear takes no argument]"]
    assert talk.say("/undo x") == ["[a whole number is wanted, not x]"]


def test_regenerate(talk: Talk) -> None:
    talk.say("One.")
    first = talk.chat.conversation.turns[0].answer
    talk.say("/set temperature 3", "/set min_p 0", "/seed 5", "/regen")
    assert talk.questions == ["One."]
    assert talk.chat.conversation.turns[0].answer != first


def test_continue(talk: Talk) -> None:
    talk.say("One.")
    begun = talk.chat.conversation.turns[0]
    talk.script.output = ""
    talk.say("/continue")
    whole = talk.chat.conversation.turns[0]
    assert (len(begun.tokens), len(whole.tokens)) == (8, 16)
    assert whole.answer == begun.answer + talk.script.output[:-1]


def test_edit_changes_a_past_question(talk: Talk) -> None:
    talk.say("One.", "Two.", "Three.")
    talk.say("/edit 2 Zwei.")
    assert talk.questions == ["One.", "Zwei."]
    talk.script.editor = lambda text: text.replace("Zwei", "二")
    talk.say("/edit -1")
    assert talk.questions == ["One.", "二."]
    assert talk.script.edited == ["Zwei."]
    talk.script.editor = lambda text: None
    assert talk.say("/edit 1") == ["[nothing was changed]"]
    assert talk.say("/edit 7") == ["[there is no turn 7; there are 2]"]
    assert talk.questions == ["One.", "二."]


def test_edit_writes_the_next_message(talk: Talk) -> None:
    talk.script.editor = lambda text: "from the editor\nof two lines\n"
    talk.say("/edit", "and sent")
    assert "from the editor\nof two lines\n" in talk.script.drafts
    assert talk.questions == ["and sent"]


def test_history(talk: Talk) -> None:
    assert talk.say("/history") == ["there is no question yet"]
    talk.say("One.", "1\n2\n3\n4\n5\n6")
    shown = talk.say("/history")
    assert shown[0].startswith("1. > One.\n   ")
    assert "\n…\n" in shown[1]
    assert "\n6\n" in talk.say("/history 2")[0]
    assert "[cut]" in shown[0]


def test_context(talk: Talk) -> None:
    talk.say("One.", "Two.")
    shown = talk.say("/context")
    used = talk.chat.conversation.used()
    assert f"{used} of 512 tokens ({round(100 * used / 512)}%)" in shown[0]
    parts = [int(line.rpartition(": ")[2]) for line in shown[1:4]]
    assert sum(parts) == used
    assert "drop" not in shown[-1].partition("(")[0]


def test_system(talk: Talk) -> None:
    assert talk.say("/system")[0].startswith("system line, the template's own: I am an intelligent language assistant")
    assert talk.say("/system 请用中文回答。 Be brief.") == ["system line: 请用中文回答。 Be brief."]
    talk.say("One.")
    assert talk.chat.last is not None
    assert "请用中文回答" in talk.chat.runtime.model.text(talk.chat.conversation.tokens([], "x"))
    assert talk.say("/system none") == ["no system line"]
    assert talk.say("/system default")[0].startswith("system line, the template's own")


def test_set(talk: Talk) -> None:
    assert talk.say("/set temperature 0.2") == ["temperature = 0.2"]
    assert talk.chat.conversation.sampling.temperature == 0.2
    assert talk.say("/set top-k 5") == ["top_k = 5"]
    shown = "\n".join(talk.say("/set"))
    assert "* temperature" in shown
    assert "  top_p " in shown
    assert "max_tokens" in shown
    assert "logprobs" not in shown
    assert talk.say("/set temperature") == ["temperature = 0.2", "  Randomness; 0 is greedy."]
    assert talk.say("/set temperature default") == ["temperature = 0"]
    assert talk.say("/set temperature hot")[0].startswith("[temperature must be a number from 0 to 100, not 'hot'")
    assert talk.say("/set temprature 1") == ["[no setting is called temprature; try temperature]"]
    assert talk.say('/set stop "a b" 。') == ["stop = 'a b' '。'"]
    assert talk.say("/set overflow error") == ["overflow = error"]
    assert talk.chat.conversation.overflow == "error"
    assert talk.say("/set ui_lang zh")[0] == "ui_lang = zh"
    assert talk.say("/set temperature")[1] == "  随机程度；0 总是取最可能的 token"


def test_seed(talk: Talk) -> None:
    talk.say("/set temperature 2", "/set min_p 0", "/seed 7", "One.")
    assert talk.say("/seed") == ["seed: 7", "the last answer's seed was 7"]
    first = talk.chat.conversation.turns[0].answer
    talk.say("/regen")
    assert talk.chat.conversation.turns[0].answer == first
    assert talk.say("/seed random")[0] == "seed: a new one for each answer"
    assert talk.say("/seed -1")[0].startswith("[seed must be random or a whole number")


def test_template(talk: Talk) -> None:
    talk.say("One.")
    assert talk.say("/template chatml")[0].startswith("[the template uses the special token <|im_start|>, which this")
    assert talk.chat.runtime.template.name == "bayling"
    assert talk.say("/template alpaca") == ["template: alpaca"]
    talk.say("Two.")
    assert talk.questions == ["One.", "Two."]
    assert talk.say("/template nonsense")[0].startswith("[unknown template: nonsense")
    assert talk.say("/template default") == ["template: bayling"]
    assert "chatml" in talk.say("/template")[1]


def test_tokens(talk: Talk) -> None:
    shown = talk.say("/tokens 光 a")
    ids = talk.chat.runtime.model.tokenize("光 a")
    assert [int(one.partition(":")[0]) for one in shown[0].split()] == ids
    assert shown[1] == f"{len(ids)} tokens"
    assert talk.say("/tokens") == ["[there is no question yet]"]


def test_stats(talk: Talk) -> None:
    assert talk.say("/stats") == ["no answer yet"]
    talk.say("One.", "Two.")
    shown = talk.say("/stats")
    assert "; 8 tokens at" in shown[0]
    assert shown[1].startswith("in all: 2 answers")


def test_read(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "a file.md"
    path.write_text("Facts about 星星.\n", encoding="utf-8")
    assert talk.say(f"/read {path}")[0].startswith(f"[{path}: ")
    talk.say("What is it about?")
    assert talk.questions == ["Facts about 星星.\n\nWhat is it about?"]
    talk.say(f"/read '{path}' And this?")
    assert talk.questions[1] == "Facts about 星星.\n\nAnd this?"
    assert talk.say(f"/read {tmp_path}")[0] == f"[{tmp_path} is a folder; give a file]"
    assert talk.say("/read nowhere.txt")[0].startswith("[file not found: nowhere.txt")
    assert talk.say("/read") == ["[a file's name is missing]"]
    (tmp_path / "long.txt").write_text("word " * 2000)
    assert "does not fit" in talk.say(f"/read {tmp_path / 'long.txt'}")[0]
    (tmp_path / "raw.bin").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in talk.say(f"/read {tmp_path / 'raw.bin'}")[0]
    assert len(talk.questions) == 2


def test_schema_and_grammar(talk: Talk, tmp_path: Path) -> None:
    talk.say("/set max_tokens 60")
    assert talk.say('/schema {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}')[
        0
    ].startswith("answers follow this schema")
    talk.say("One.")
    assert json.loads(talk.chat.conversation.turns[-1].answer)
    assert talk.say("/schema {broken")[0].startswith("[this is no JSON")
    assert talk.chat.structure is not None  # the old one works on
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"\n')
    talk.say(f"/grammar {tmp_path / 'yes.gbnf'}", "Two.")
    assert talk.chat.conversation.turns[-1].answer in ("yes", "no")
    assert talk.say("/grammar off") == ["answers are free text"]
    assert talk.chat.conversation.grammar is None
    assert talk.say("/schema nowhere.json")[0].startswith("[file not found")


def test_model(talk: Talk, bpe_model: Path, spm_model: Path, tmp_path: Path) -> None:
    talk.say("One. 一。", "/set temperature 0.5")
    shown = talk.say(f"/model {bpe_model}")
    assert shown[-1].startswith("tiny-F32.gguf · context 512 · template: bayling-llama-3")
    talk.say("Two. 二。")
    assert talk.questions == ["One. 一。", "Two. 二。"]
    assert talk.chat.conversation.turns[0].tokens == []  # of another vocabulary
    assert talk.chat.conversation.sampling.temperature == 0.5
    (tmp_path / "broken.gguf").write_bytes(spm_model.read_bytes()[:5000])
    for wrong in ("nowhere.gguf", tmp_path / "broken.gguf", tmp_path):
        assert talk.say(f"/model {wrong}")[0].startswith("[")
        talk.say("Again.")
        assert talk.chat.runtime.model.path == bpe_model
    assert len(talk.questions) == 5


def test_model_where_there_is_no_room_for_two(
    talk: Talk, bpe_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stellar_local.chat.dialogue.fits_beside", lambda model, options: False)
    talk.say("One.", "/template alpaca")
    (tmp_path / "broken.gguf").write_bytes(bpe_model.read_bytes()[:-5000])
    assert talk.say(f"/model {tmp_path / 'broken.gguf'}")[0].startswith("[")
    talk.say("Two.")
    assert talk.chat.runtime.template.name == "alpaca"
    talk.say(f"/model {bpe_model}", "Three.")
    assert talk.questions == ["One.", "Two.", "Three."]
    assert talk.chat.runtime.model.path == bpe_model


def test_lora(talk: Talk, lora_file: Path, spm_model: Path, bpe_model: Path, tmp_path: Path) -> None:
    assert talk.say("/lora") == ["no LoRA adapter is loaded"]
    talk.say("One.")
    plain = talk.chat.conversation.turns[0].answer
    assert talk.say(f"/lora {lora_file} 2") == ["  astro 星  2"]
    talk.say("/regen")
    tuned = talk.chat.conversation.turns[0].answer
    assert tuned != plain
    with opened(spm_model, None, lora=(f"{lora_file}:2",)) as other:  # as if it had been there from the start
        other.say("One.")
        assert other.chat.conversation.turns[0].answer == tuned
    assert talk.say("/lora astro 星 off") == ["  astro 星  off"]
    talk.say("/regen")
    assert talk.chat.conversation.turns[0].answer == plain
    assert talk.say("/lora astro 星 2") == ["  astro 星  2"]
    for wrong in ("nowhere.gguf", spm_model, f"{lora_file} 1000"):
        assert talk.say(f"/lora {wrong}")[0].startswith("["), wrong
    talk.say("/regen", "/save mine", "Two.")
    assert talk.chat.conversation.turns[0].answer == tuned
    talk.say("/clear", "Three.")
    assert talk.say(f"/model {bpe_model}", "/lora")[-1] == "no LoRA adapter is loaded"
    with opened(spm_model, tmp_path / "sessions") as other:  # a session brings its adapters along
        other.say("/load mine", "/edit 1 One.")
        assert other.chat.runtime.adapters == {"astro 星": 2.0}
        assert other.chat.conversation.turns[0].answer == tuned


def test_save_load_rename_delete(talk: Talk, tmp_path: Path) -> None:
    assert talk.say("/save") == ["[there is nothing to save yet]"]
    talk.say("One.", "/save 天文 1", "Two.")
    assert talk.chat.session is not None and talk.chat.store is not None
    assert talk.chat.session.name == "天文 1"
    assert len(talk.chat.store.names()) == 2  # what was saved before stays under its own name
    assert talk.say("/save 天文 1")[0].startswith("[saved as 天文 1")
    talk.say("/clear", "Three.")
    assert talk.say("/load 天文 1")[0].startswith("session 天文 1: turns 2, tokens 1")
    assert talk.questions == ["One.", "Two."]
    assert talk.say("/rename stars") == ["[this session is now called stars]"]
    assert "天文 1" not in talk.chat.store.names()
    assert talk.say("/delete stars") == ["[this session is open; /clear begins another first]"]
    shown = talk.say("/sessions")
    assert any(line.startswith("* stars  ") and "turns: 2" in line for line in shown)
    other = next(name for name in talk.chat.store.names() if name != "stars")
    assert talk.say(f"/delete {other}") == [f"[{other} is deleted]"]
    assert other not in talk.chat.store.names()
    for line in ("/load nonsense", "/delete nonsense", "/rename ../x", "/save a/b", "/load", "/delete", "/rename"):
        assert talk.say(line)[0].startswith("["), line
    assert talk.questions == ["One.", "Two."]


def test_a_session_that_is_open_elsewhere(talk: Talk, spm_model: Path, tmp_path: Path) -> None:
    talk.say("One.", "/save mine")
    with opened(spm_model, tmp_path / "sessions") as other:
        assert other.say("/load mine")[0].startswith("[")
        other.say("Two.")
        assert other.questions == ["Two."]
        assert other.say("/save mine")[0].startswith("[")
    assert talk.say("/load mine")[0].startswith("session mine: turns 1, tokens 1")


def test_export_and_load_again(talk: Talk, tmp_path: Path) -> None:
    talk.say("One. 一。", "Two. 二。")
    answers = [turn.answer for turn in talk.chat.conversation.turns]
    for name in ("talk.md", "talk.json", "talk.sharegpt.json", "share.json sharegpt"):
        path = tmp_path / name.split(" ")[0]
        assert talk.say(f"/export {tmp_path / name}") == [f"[written to {path}]"]
        assert "一" in path.read_text(encoding="utf-8")
    assert talk.say(f"/export {tmp_path / 'talk.md'}")[0].startswith("[")
    assert talk.say(f"/export {tmp_path / 'talk.md'} force") == [f"[written to {tmp_path / 'talk.md'}]"]
    for name in ("talk.json", "talk.sharegpt.json", "share.json"):
        talk.say("/clear")
        assert talk.say(f"/load {tmp_path / name}")[0].startswith("session ")
        assert talk.questions == ["One. 一。", "Two. 二。"]
        assert [turn.answer for turn in talk.chat.conversation.turns] == answers
        talk.say("Three. 三。")
        assert len(talk.questions) == 3
    assert talk.say("/export")[0].startswith("[")
    assert talk.say("/export x.doc")[0].startswith("[")


def test_copy(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(
        "stellar_local.chat.session_commands.copy", lambda text, out, texts: copied.append(text) or "xclip"
    )
    assert talk.say("/copy") == ["[there is no question yet]"]
    talk.say("One.", "Two.")
    assert "(xclip)" in talk.say("/copy")[0]
    talk.say("/copy 2")
    assert copied == [turn.answer for turn in reversed(talk.chat.conversation.turns)]


def test_nothing_is_saved_in_private(spm_model: Path) -> None:
    with opened(spm_model, None) as talk:
        talk.say("One.")
        for line in ("/save", "/load x", "/sessions", "/rename x", "/delete x"):
            assert talk.say(line) == ["[nothing is saved in this chat, as --private asks]"]
        assert talk.questions == ["One."]


def test_plan(talk: Talk) -> None:
    shown = "\n".join(talk.say("/plan"))
    assert "F32" in shown
    assert "MiB" in shown


def test_without_a_person_what_fails_ends_it(spm_model: Path) -> None:
    with opened(spm_model, None, interactive=False) as talk:
        with pytest.raises(StellarError):
            talk.say("/nonsense")
        with pytest.raises(UsageError):
            talk.say("/set temperature hot")
        with pytest.raises(RequestError):
            talk.say("/undo")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/he", ["/help"]),
        ("/S", ["/save", "/schema", "/seed", "/sessions", "/set", "/stats", "/system"]),
        ("/set temp", ["temperature"]),
        ("/set overflow ", ["drop", "error", "shift", "default"]),
        ("/template ba", ["bayling", "bayling-2", "bayling-llama-3"]),
        ("/help und", ["undo"]),
        ("/nonsense x", []),
        ("hello /he", []),
    ],
)
def test_suggestions(line: str, expected: list[str], talk: Talk) -> None:
    assert sorted(one.text for one in suggestions(talk.chat, line)) == sorted(expected)


def test_suggestions_of_sessions_and_files(talk: Talk, tmp_path: Path, spm_model: Path) -> None:
    talk.say("One.", "/save 天文")
    assert "天文" in [one.text for one in suggestions(talk.chat, "/load 天")]
    shutil.copy(spm_model, tmp_path / "other.gguf")
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert [one.text for one in suggestions(talk.chat, f"/model {tmp_path}/")] == [
        f"{tmp_path}/{name}" for name in ("folder/", "other.gguf", "sessions/")
    ]
    assert f"{tmp_path}/notes.txt" in [one.text for one in suggestions(talk.chat, f"/read {tmp_path}/no")]


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 300, "星" * 120, "a\0b", "/dev/zero"])
def test_paths_that_can_be_none(name: str, talk: Talk) -> None:
    for command in ("read", "load", "schema", "grammar", "template", "lora", "model", "export"):
        assert talk.say(f"/{command} {name}")[0].startswith("["), command
        suggestions(talk.chat, f"/{command} {name}/")
    talk.say("One.")
    assert talk.say("/read notes.txt " + "这个文件说了什么？" * 30)[0].startswith("[file not found: notes.txt")
    for line in ('/schema {"enum": ["' + "星" * 150 + '"]}', '/grammar root ::= "' + "星" * 150 + '"'):
        assert talk.say(line)[0].startswith("answers follow")
    assert talk.say("/schema " + '{"a":' * 3000)[0].startswith("[")
    assert talk.questions == ["One."]


def test_a_template_that_refuses_the_system_line(talk: Talk, spm_model: Path, tmp_path: Path) -> None:
    """As Gemma's does: what would make it refuse is refused itself, and nothing is saved that cannot be opened."""
    from stellar_local.chat_template import ChatTemplate

    refusing = ChatTemplate(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}",
        talk.chat.runtime.model.special_texts(),
    )
    own = talk.chat.runtime.template
    talk.chat.runtime.template = refusing
    talk.say("One.")
    assert "System role not supported" in talk.say("/system Be brief.")[0]
    assert talk.chat.conversation.system is None
    talk.chat.runtime.template = own
    talk.say("/system Be brief.")
    talk.chat.runtime.own_template = lambda: refusing  # type: ignore[method-assign]
    talk.say("/template alpaca")
    assert "System role not supported" in talk.say("/template default")[0]
    assert talk.chat.runtime.template.name == "alpaca"
    talk.say("Two.")
    assert talk.questions == ["One.", "Two."]


def test_a_model_that_cannot_be_opened_leaves_the_level_that_was_chosen(
    spm_folder: Path, bpe_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stellar_local.chat.dialogue.fits_beside", lambda model, options: False)
    (tmp_path / "broken.gguf").write_bytes(bpe_model.read_bytes()[:-5000])
    with opened(spm_folder, None, level="Q8_0") as talk:
        assert talk.say(f"/model {tmp_path / 'broken.gguf'}")[0].startswith("[")
        talk.say("One.")
        assert talk.chat.runtime.model.path.name == "tiny-Q8_0.gguf"
        assert talk.questions == ["One."]
