"""The REPL: turns with memory in a terminal, or over plain lines.

Layers: command > loop > opening > about_commands, model_commands, session_commands, turn_commands > table, reading >
answering, toolbar > state > conversation, kv_cache, sessions, export, clipboard, terminal, markdown > saved,
editing, devices, drawing, live > quotes, editor, history, typeahead, blocks, highlight, inline, layout >
nesting > marks, texts
"""
