"""What leaves a run: its policy as an object, its evaluation, videos and exports."""
