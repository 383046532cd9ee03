"""Networks as torch modules: made from a spec or a user's module, gated, cut, folded."""
