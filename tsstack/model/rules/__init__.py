"""The lint rules, one module for each area of the file."""
