"""Many runs: studies, searches, and the folders they share."""
