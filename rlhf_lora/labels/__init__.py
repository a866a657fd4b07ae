"""What people and judges said of answers: rows, files of them, several raters counted as one, and how far they agree."""
