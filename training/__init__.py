"""HOW a model is made and accepted: split, fit, export, the gate, and the promotion that follows from it."""
