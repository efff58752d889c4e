"""The names of the presets, to be had without JAX."""

PRESETS = {
    "paper": "the DIME paper's tables 2 and 3: wide networks, 1M env steps (for accelerators)",
    "released": "what the algorithm's own authors' code does, where that is something else",
    "laptop": "small networks, 20 000 env steps (minutes on two cores)",
}
