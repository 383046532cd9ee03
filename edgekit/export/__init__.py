"""From a trained network to a file that was run in its runtime and found to agree with it.

Nothing here trains, and no file format is known: those are in ``edgekit.runtimes``.
"""
