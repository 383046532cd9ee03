"""The command line: one thin file per command, each imported when it is called.

Options are read and results are handed to ``edgekit.ui`` here; no work is done, and nothing is printed.
"""
