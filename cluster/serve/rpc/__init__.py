"""The gRPC front door, server and client: nothing else imports grpc."""
