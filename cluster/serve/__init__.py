"""An emulated machine behind real interfaces: the machine itself, an HTTP and a gRPC front door."""
