"""Layer encryption as ocicrypt does it: keys, recipients, streams, whole images. Usable without the rest of Kokon."""
