"""Training: the loop, evaluation, checkpoints, several processes.

Import what you need from the files: this one stays empty, so that start.py and world.py can be had without torch.
"""
