"""BRO and BRO-Fast."""
