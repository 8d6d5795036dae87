"""What fits this machine and how to run it: every level's best setup, ranked, opened, and less where memory is short.

Layers: cards, explain > opening > choose, probe > estimate, models > shapes, weights > hardware, quality, sparse
"""
