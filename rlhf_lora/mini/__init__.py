"""The miniature: a task whose truth is known, and bases small enough to be made on the spot."""
