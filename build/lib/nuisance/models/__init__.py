"""Networks, one study's family a file."""
