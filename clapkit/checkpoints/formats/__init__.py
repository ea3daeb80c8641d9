"""The file formats that weights come in, read without running anything that is in them."""
