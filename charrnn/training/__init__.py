"""Training: batches, steps, and the plan of how many steps to take."""
