"""Training a judge on the user's own folders of images."""
