"""Worlds to act in: gymnasium environments with pixels, and who collects videos in them."""
