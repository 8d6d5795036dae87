"""The REPL: turns with memory in a terminal, or over plain lines.

Layers: loop > commands > terminal, kv_cache > texts
"""
