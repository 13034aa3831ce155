"""Tables and findings as pages, figures, LaTeX and text. Nothing is computed here that a verdict rests on."""
