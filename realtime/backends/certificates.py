"""What a certificate says of itself: whose it is, and how long it holds. Whether to trust it is TLS' own."""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtensionOID


class Leaf(NamedTuple):
    """The first certificate of a file; `names` are its DNS names in lower case, times are Unix seconds."""

    names: tuple[str, ...]
    begins_at: float
    ends_at: float


def read_leaf(pem: bytes) -> Leaf:
    """Return what the first certificate in `pem` says.

    Raises:
        ValueError: there is none, or it is no certificate that can be read.
    """
    leaf = x509.load_pem_x509_certificates(pem)[0]
    return Leaf(_names(leaf), leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """Its subjectAltNames: the subject's common name counts for nobody any more (RFC 9525, 2)."""
    try:
        extension = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return ()
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
