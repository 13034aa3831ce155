"""From measures to an answer: what to do, the sentence that says it, and what a rule for choosing would have cost.

`verdicts` collects the comparisons of each setting, `choice` decides, `sentence` words the decision, and `regret`
judges rules for choosing.
"""
