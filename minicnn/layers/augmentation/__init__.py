"""Layers that change pictures at random while training, and leave them alone otherwise."""
