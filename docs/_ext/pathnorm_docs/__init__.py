"""The parts of the documentation that are made from the code and from committed results, when the site is built."""
