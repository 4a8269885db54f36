"""Asks a node for its health as gRPC's own client does, over one channel, and prints a line for each answer.

Usage: ask_health.py ADDRESS CA-FILE CALL..., where a CALL is a method of the service, `:` and the service's name, or
`gzip:` and that name for a check that is sent compressed. Without TLS, CA-FILE is `-`.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

address, ca_file, *calls = sys.argv[1:]
if ca_file == "-":
    channel = grpc.insecure_channel(address)
else:
    with open(ca_file, "rb") as file:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()))
stub = health_pb2_grpc.HealthStub(channel)
for call in calls:
    method, service = call.split(":")
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        if method == "Watch":
            answer = next(iter(stub.Watch(request, timeout=10)))
        else:
            compression = grpc.Compression.Gzip if method == "gzip" else None
            answer = stub.Check(request, timeout=10, compression=compression)
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status), flush=True)
    except grpc.RpcError as error:
        print(error.code().name, error.details(), flush=True)
