"""The embedded demonstration: handwritten digits, three small networks, one command."""
