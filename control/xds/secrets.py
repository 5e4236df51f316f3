"""Certificates on their way to a sidecar: SDS."""

from __future__ import annotations

from control.xds.protos import CertificateValidationContext, DataSource, Secret, TlsCertificate
from control.xds.resources import Resource, resource
from control.xds.tls import LEAF, ROOTS


def leaf_secret(certificate_pem: bytes, key_pem: bytes, version: str) -> Resource:
    """Build the secret `leaf`: the sidecar's own certificate chain and key. `version` names the certificate."""
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=certificate_pem), private_key=DataSource(inline_bytes=key_pem)
    )
    return resource(LEAF, Secret(name=LEAF, tls_certificate=certificate), version)


def roots_secret(bundle_pem: bytes) -> Resource:
    """Build the secret `roots`: every root that is trusted at the moment."""
    context = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=bundle_pem))
    return resource(ROOTS, Secret(name=ROOTS, validation_context=context))
