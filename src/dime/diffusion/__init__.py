"""The mathematics of diffusion chains; it knows nothing of reinforcement learning."""
