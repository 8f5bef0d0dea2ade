"""Ways of going through a module: as a chain of layers where it is one, or as any module."""
