"""Critics: what an action is worth, as a number or as a distribution."""
