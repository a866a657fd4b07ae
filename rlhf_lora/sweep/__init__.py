"""`train … -m`: many runs from one command, as a grid or chosen by Optuna, and the table of what they came to."""
