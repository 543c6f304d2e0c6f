"""The networks of the paper, as plain torch modules."""
