"""Scripted inference: lines in, one JSON object a line out, in order, many at once.

Layers: command > dry > runner > feeder, render, resume, report, signals > reader > table > lines, writer > fields
"""
