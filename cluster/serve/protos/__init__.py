"""The gRPC interface: protos, and the Python that protoc makes of them (tools/protos.py)."""
