"""Messages and stubs of `subjects/schema/tidegate.proto`, made by `make proto`: `tidegate_pb2`, `tidegate_pb2_grpc`."""
