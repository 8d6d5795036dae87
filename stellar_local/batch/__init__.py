"""Scripted inference: lines in, one JSON object a line out, in order.

Layers: runner > reader, writer
"""
