"""Settings of the clients that the cases need to know."""

PASSWORD = "not a secret"
