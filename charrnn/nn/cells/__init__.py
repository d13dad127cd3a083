"""Recurrent cells: `output, next_state = cell(input, state)`, one file for each family."""
