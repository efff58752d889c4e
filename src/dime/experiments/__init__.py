"""Many runs, and what is made of them: presets, curves, figures."""
