"""The embedded default: a small series of checkpoints trained by this project, and how it was made.

What belongs here: the checkpoints, the script that makes them, and their README. What does not: anything that the
pipeline needs for another model.
"""
