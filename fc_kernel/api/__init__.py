"""What crosses the boundary: models of requests, answers and errors, and their description."""
