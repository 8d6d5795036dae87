"""Run LLaMA-architecture models through llama.cpp: chat, batch inference, prompts. Light: never imports torch.

Layers, a module imports only from those to its right:
cli > quickstart, evaluate > doctor > batch, chat, plan_command > flags > plan > runtime > engine > native,
chat_template, answered > prompts > records > config > spec > terminal > render > texts > tables > console > files >
mounting > errors, interrupts, bundled, child
"""

__version__ = "0.1.0"
