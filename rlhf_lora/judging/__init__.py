"""Asking for opinions: what a judge is asked and how its answers are read, wherever the answers come from."""
