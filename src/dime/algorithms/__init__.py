"""One file per paper: a frozen config, and `config, spec -> Agent`."""
