"""Pages. They need no JavaScript; with it an upload shows how far it is."""
