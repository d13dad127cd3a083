"""A cell and a task for charrnn, in a package of their own."""
