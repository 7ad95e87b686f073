"""Bills of materials: which packages an image is made of."""
