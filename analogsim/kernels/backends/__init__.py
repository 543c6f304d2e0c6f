"""The ways in which the products are computed."""
