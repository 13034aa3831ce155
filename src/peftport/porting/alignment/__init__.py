"""What several porting methods share: how to fit linear maps between two hosts, and how to carry a module through them.

`words` and `activations` run both hosts on the same texts, and `spaces` sums up moments of the activations. `maps`,
`rotations` and `heads` fit maps to the moments, completed by what `parts` expects. `bases` and `low_rank` decompose
weights instead, and `layer_cka` compares layers. `transport` carries a module through the maps.
"""
