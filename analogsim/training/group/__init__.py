"""Groups: networks of one shape that are trained together, as one network of many channels."""
