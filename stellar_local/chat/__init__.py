"""The REPL: turns with memory in a terminal, or over plain lines.

Layers: loop > commands > terminal, sessions, export, clipboard, picked > saved > texts
"""
