"""`[network]`: from where connections are taken."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from realtime.policy.access import Effect
from realtime.policy.section import Section

Networks = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=100_000)]
Paths = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=4096)], ...], Meta(max_length=100)]
Countries = Annotated[tuple[Annotated[str, Meta(pattern="^[A-Z]{2}$")], ...], Meta(max_length=300)]
Origins = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=300)], ...], Meta(max_length=10_000)]


class Network(Section, frozen=True, kw_only=True):
    """Addresses, countries, origins, and whose word about addresses is taken.

    Of `allow` and `deny`, and the files with one network a line that `allow_files` and `deny_files` name, the
    longest prefix that covers an address decides, and of equal ones that of deny. Whom none covers is judged
    by country (ISO 3166, such as DE), and who has none there either by `default`: without one they are denied
    where `allow` or `countries_allow` names anybody, and else let in.

    `trusted_proxies` may say on whose behalf they connect: by the PROXY protocol, and in the one header that
    `proxy_header` names. `origins` are allowed beside those of the setting `allowed_origins`.
    """

    allow: Networks = ()
    deny: Networks = ()
    allow_files: Paths = ()
    deny_files: Paths = ()
    default: Effect | None = None
    trusted_proxies: Networks = ()
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    proxy_header: Literal["", "x-forwarded-for", "forwarded", "x-real-ip"] = ""
    countries_allow: Countries = ()
    countries_deny: Countries = ()
    geo_database: Annotated[str, Meta(max_length=4096)] = ""
    geo_failure: Literal["closed", "open"] = "closed"
    origins: Origins = ()
    origin_missing: Effect = "deny"

    @property
    def exclusive(self) -> bool:
        """Whether whom nothing speaks of is denied."""
        if self.default is not None:
            return self.default == "deny"
        return bool(self.allow or self.allow_files or self.countries_allow)

    @property
    def by_country(self) -> bool:
        """Whether it matters where an address is."""
        return bool(self.countries_allow or self.countries_deny)

    def check(self) -> None:
        """Raise ValueError where values contradict each other."""
        for name in ("proxy_protocol", "proxy_header"):
            if getattr(self, name) not in ("", "off") and not self.trusted_proxies:
                raise ValueError(f"{name} is {getattr(self, name)} and trusted_proxies names nobody")
        for each in self.trusted_proxies:
            if each.endswith("/0"):
                raise ValueError(f"trusted_proxies: {each} is everybody, who could then be anybody")
        if self.by_country and not self.geo_database:
            raise ValueError("countries_allow and countries_deny need a geo_database")
        both = sorted(set(self.countries_allow) & set(self.countries_deny))
        if both:
            raise ValueError(f"countries_allow and countries_deny both name {', '.join(both)}")
