"""The REPL: turns with memory in a terminal, or over plain lines.

Layers: loop > commands > terminal > markdown > drawing > blocks, inline, highlight, live > nesting > marks, layout,
texts
"""
