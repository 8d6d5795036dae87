"""Is this installation sound, and does it use the GPU? Checks, each with what was found and the command that mends it.

Layers: command > report > examination > library, graphics, processor, surroundings, model, generation > deaths >
remedies, hints > probe > probe_library, probe_model, probe_generation, probe_nvml > cards > nvidia > features >
machine > finding
Nothing here loads llama.cpp: what may crash runs in a child process (probe), and its end is explained (deaths).
"""
