"""Stages tied together: above train and export, below report.

What one stage does by itself is in its own package.
"""
