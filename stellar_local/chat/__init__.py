"""The REPL: turns with memory in a terminal, or over plain lines.

Layers: loop > commands > terminal > editing, devices, editor, history, typeahead > blocks, texts
"""
