"""Where a chat reads and writes: line editing in a terminal, or plain streams.

Layers: terminal > editing, devices, editor, history, typeahead > quotes
"""
