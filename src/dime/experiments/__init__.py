"""Many runs, and what is made of them: presets, statistics, figures."""
