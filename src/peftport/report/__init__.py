"""Findings as an HTML page, figures, LaTeX tables and text.

`studied` and `compared` make `findings` of a study or of comparisons; `html` renders them as a page with the charts of
`figures` and the tables of `shown`; `export` and `latex` write both for a paper. `tables`, `checked` and the sentences
in them are for the terminal. Nothing that a verdict rests on is computed here.
"""
