"""Views: lanes side by side in a terminal."""
