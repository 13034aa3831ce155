"""What the methods of porting share: activations of both hosts and the maps between them."""
