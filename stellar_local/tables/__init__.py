"""Tables of texts, and Astro-QA's question sheets: what making training data and evaluation both read.

Layers, left may import right:
astro_qa > questions > answers > unusable, language, workbook > table (then stellar_local)
"""
