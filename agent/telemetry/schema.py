# mypy: disable-error-code="attr-defined"
"""The few OTLP messages a sidecar's sink sends, in a descriptor pool of our own.

Two installed packages ship `opentelemetry/proto` at different ages, and registering both in protobuf's default pool is an
error; so the schema stands here, with the field numbers of OTLP 1.x (opentelemetry-proto, `metrics/v1/metrics.proto`).

The fields that would cost Python loops are declared as `bytes`, which is the same on the wire: an attribute (a
length-delimited message) and packed arrays of numbers. A set of attributes then is a tuple of bytes to look up in a
cache, and bucket counts are one `numpy.frombuffer` away.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "fibrin.otlp"
_SCALARS: Final = {
    "bytes": _FIELD.TYPE_BYTES,
    "string": _FIELD.TYPE_STRING,
    "fixed64": _FIELD.TYPE_FIXED64,
    "sfixed64": _FIELD.TYPE_SFIXED64,
    "int32": _FIELD.TYPE_INT32,
}
_MESSAGES: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "AnyValue": (("string_value", 1, "string"),),
    "KeyValue": (("key", 1, "string"), ("value", 2, "AnyValue")),
    "Resource": (("attributes", 1, "*KeyValue"),),
    "NumberPoint": (("time_unix_nano", 3, "fixed64"), ("as_int", 6, "sfixed64"), ("attributes", 7, "*bytes")),
    "HistogramPoint": (
        ("count", 4, "fixed64"),
        ("bucket_counts", 6, "bytes"),  # packed fixed64
        ("explicit_bounds", 7, "bytes"),  # packed double
        ("attributes", 9, "*bytes"),
    ),
    "Gauge": (("data_points", 1, "*NumberPoint"),),
    "Sum": (("data_points", 1, "*NumberPoint"), ("aggregation_temporality", 2, "int32")),
    "Histogram": (("data_points", 1, "*HistogramPoint"), ("aggregation_temporality", 2, "int32")),
    "Metric": (("name", 1, "string"), ("gauge", 5, "Gauge"), ("sum", 7, "Sum"), ("histogram", 9, "Histogram")),
    "ScopeMetrics": (("metrics", 2, "*Metric"),),
    "ResourceMetrics": (("resource", 1, "bytes"), ("scope_metrics", 2, "*ScopeMetrics")),
    "ExportRequest": (("resource_metrics", 1, "*ResourceMetrics"),),
}


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="fibrin/otlp.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            bare = kind.removeprefix("*")
            if bare in _SCALARS:
                field.type = _SCALARS[bare]
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL: Final = _pool()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


ExportRequest: Final = _message("ExportRequest")
KeyValue: Final = _message("KeyValue")
Resource: Final = _message("Resource")

DELTA: Final = 1
"""`AGGREGATION_TEMPORALITY_DELTA`."""
