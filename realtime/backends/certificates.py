"""What a certificate says of itself: whose it is, and how long it holds. Whether to trust it is TLS' own."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
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


def chain_trouble(pem: bytes) -> str:
    """Return what is wrong with the order of the certificates in `pem`, each to be signed by the next; empty
    where nothing is. Whether the last one is trusted is for who connects.

    Raises:
        ValueError: as `read_leaf`.
    """
    chain = x509.load_pem_x509_certificates(pem)
    for number, (certificate, issuer) in enumerate(pairwise(chain), start=2):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return f"certificate {number} in the file did not sign the one before it"
    last = chain[-1]
    if len(chain) == 1 and last.issuer != last.subject and not _is_authority(last):
        return "no intermediate certificate follows it in the file"
    return ""


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """Its subjectAltNames: the subject's common name counts for nobody any more (RFC 9525, 2)."""
    try:
        extension = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return ()
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
