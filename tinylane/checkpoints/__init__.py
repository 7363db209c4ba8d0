"""Hugging Face folders: what is in them, checked before a tensor is read, loaded, written."""
