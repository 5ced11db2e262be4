"""Building blocks: multilayer perceptron, transformer, Gaussian head, normalisation."""
