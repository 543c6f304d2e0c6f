"""analogsim: a simulated analog accelerator for PyTorch."""
