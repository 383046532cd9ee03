"""Search over structures and bit-widths; not built yet."""
