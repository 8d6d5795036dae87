"""Answers in a terminal: Markdown drawn block by block while it comes, or plain text.

Layers: markdown > drawing, live > blocks, highlight, inline > layout, nesting > marks
"""
