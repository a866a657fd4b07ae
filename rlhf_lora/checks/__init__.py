"""What can be proved: problems whose answer is known exactly, and checks of a user's own model and settings."""
