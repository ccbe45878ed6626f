"""Methods that train weights by gradient descent."""
