"""The questions that a report answers: one module each, with its numbers, figure, table and words."""
