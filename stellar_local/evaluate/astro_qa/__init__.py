"""Astro-QA (Li et al., Scientific Data 2025): its questions put to models, answers found, scored and counted.

Layers: command > task > figures, prompts, letters, verdicts, tuples > official, scoring, remarks > questions,
found
"""
