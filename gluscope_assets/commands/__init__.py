"""The command line: `main` says which commands there are and how they end; each command is a module with one function.

What belongs here: the arguments of commands, what they print, and what only they need: the plan of a build, and the Dagster
instance that it runs in. What does not: anything that a notebook or a run started from the Dagster UI needs as well.
"""

__all__ = ["main", "plan"]
