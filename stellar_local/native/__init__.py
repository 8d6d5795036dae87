"""The only code that touches llama.cpp and ggml, through ctypes: thin, typed, owning its handles.

Layers: sampler, state > context > adapter, attention, observe > model > header > ggml, devices, mapped > library
> cores, companions
Every precondition whose failure would abort the process (GGML_ASSERT) is checked here in Python first.
"""
