"""Who may ask: users' keys, the key service, and sign-in by OpenID Connect."""
