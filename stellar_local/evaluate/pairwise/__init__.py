"""Two models' answers to the same questions, judged blind by people on a page, or by a model in both orders.

Layers: command > comparison > contestants, judges, page, records, store > agreement, answering, ballots, given,
judging, outcome > endpoint, pairs, verdicts, wording > questions
"""
