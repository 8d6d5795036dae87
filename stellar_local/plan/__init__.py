"""What fits this machine: which level of a converted folder to run.

Layers: choose > shapes > sparse, quality, hardware
"""
