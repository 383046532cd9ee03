"""``edgekit run``: classify images with an exported model.

Reading, preprocessing and running is the work of ``edgekit.run``; here inputs are handed on and lines come out.
"""
