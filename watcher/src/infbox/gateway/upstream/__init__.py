"""What answers behind the gateway: the engine, or a replica that has one, and a queue for both."""
