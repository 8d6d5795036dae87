"""What it means that rows are alike or stand in an evaluation set: the one definition that build and check share.

Layers, left may import right:
duplicates > similar, sketches > overlap > forms, evaluation, showing > normal (then corpus, table_text and
stellar_local)
"""
