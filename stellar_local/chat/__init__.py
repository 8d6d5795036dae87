"""The REPL: conversations with a model, its commands, and the sessions in which they are saved.

Layers: command > loop > opening > about_commands, model_commands, session_commands, turn_commands > table, reading >
answering, toolbar > state > dialogue, kv_cache, sessions, export, clipboard > conversation > saved
"""
