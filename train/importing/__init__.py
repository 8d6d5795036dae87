"""What others wrote → instruction triples: Alpaca, ShareGPT, tables, and Astro-QA's question sheets.

Layers, left may import right:
command > job > inputs, report, conversation, sheets > questions, columns > phrasings > json_rows, text_table > outcome,
choices (then likeness, corpus, table_text and stellar_local)
"""
