"""mTLS between sidecars: TLS 1.3 only, both sides with a SPIFFE leaf over SDS, both sides checked.

A caller accepts only the certificate of the very service it meant to call; a callee accepts any service of the trust
domain (who may call whom is authorisation, a layer above).
"""

from __future__ import annotations

from control.xds.protos import (
    AggregatedConfigSource,
    ApiVersion,
    CertificateValidationContext,
    CommonTlsContext,
    ConfigSource,
    DownstreamTlsContext,
    Message,
    SdsSecretConfig,
    StringMatcher,
    SubjectAltNameMatcher,
    TlsParameters,
    TransportSocket,
    UpstreamTlsContext,
    boolean,
    packed,
    seconds,
)
from control.xds.world import TRUST_DOMAIN, MeshOptions, spiffe_id

LEAF = "leaf"
ROOTS = "roots"


def ads(options: MeshOptions) -> Message:
    """Return the config source that says: over the aggregated stream."""
    return ConfigSource(
        ads=AggregatedConfigSource(),
        resource_api_version=ApiVersion.Value("V3"),
        initial_fetch_timeout=seconds(options.fetch_timeout_s),
    )


def upstream_tls(service: str, options: MeshOptions) -> Message:
    """Return the transport socket towards `service`."""
    context = UpstreamTlsContext(common_tls_context=_common(StringMatcher(exact=spiffe_id(service)), options))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def downstream_tls(options: MeshOptions) -> Message:
    """Return the transport socket of the inbound listener."""
    context = DownstreamTlsContext(
        common_tls_context=_common(StringMatcher(prefix=f"spiffe://{TRUST_DOMAIN}/"), options),
        require_client_certificate=boolean(value=True),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _common(peer: Message, options: MeshOptions) -> Message:
    uri = SubjectAltNameMatcher.SanType.Value("URI")
    version = TlsParameters.TlsProtocol.Value("TLSv1_3")
    return CommonTlsContext(
        tls_params=TlsParameters(tls_minimum_protocol_version=version, tls_maximum_protocol_version=version),
        alpn_protocols=["h2"],
        tls_certificate_sds_secret_configs=[SdsSecretConfig(name=LEAF, sds_config=ads(options))],
        combined_validation_context=CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(
                match_typed_subject_alt_names=[SubjectAltNameMatcher(san_type=uri, matcher=peer)]
            ),
            validation_context_sds_secret_config=SdsSecretConfig(name=ROOTS, sds_config=ads(options)),
        ),
    )
