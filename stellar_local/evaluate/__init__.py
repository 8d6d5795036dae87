"""How good a model is: measured on what it is asked, item by item, with intervals, and reported.

Layers: command > astro_qa, identity, text, likelihood, pairwise, report > flags > measuring > asking, subject, showing
> tables, text_scores, json_rows, ordering > results, statistics
"""
