"""Version 1 of the gRPC interface, which only ever grows."""
