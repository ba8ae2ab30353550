"""Tokens: JSON Web Tokens (RFC 7519) of several issuers, judged as RFC 8725 advises. PyJWT stops here.

`compact` takes a token apart, `keys` says which key may verify what, `jwks` and `remote` find keys, `claims`
reads what a token says, `issuer` puts these together for one issuer, `authenticator` for all; `minting` makes
tokens.
"""
