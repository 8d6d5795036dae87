"""The REPL: turns with memory in a terminal, or over plain lines.

Layers: command > loop > opening > about_commands, model_commands, session_commands, turn_commands > table, reading >
answering, toolbar > state > dialogue, kv_cache, sessions, export, clipboard, markdown > conversation, terminal > saved,
editing, devices, drawing, live > quotes, editor, history, typeahead, blocks, highlight, inline, layout >
nesting > marks
"""
