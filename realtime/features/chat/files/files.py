"""Attachments: uploads that are asked for, what messages refer to, and URLs to read it.

The bytes come and go over HTTP (`web`), by URLs that are given here and say all that is to be known there.
That an upload is whole is seen among the blobs, when a message refers to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from realtime.core.blobs import Blobs
from realtime.core.command import Command
from realtime.core.database import Statement
from realtime.core.personal import stamp
from realtime.core.session import Session
from realtime.errors import BadMessage, Forbidden, QuotaExceeded, TooLarge, Unavailable
from realtime.features.chat.asking import Answer, identity_of
from realtime.features.chat.files import rows
from realtime.features.chat.files.about import About, Shown, about_of, read_about
from realtime.features.chat.files.collecting import Collector
from realtime.features.chat.files.keys import GONE, file_key, tenant_key, upload_prefix
from realtime.features.chat.files.names import clean_name
from realtime.features.chat.files.rows import File, file_of
from realtime.features.chat.files.tickets import FileTicket, Tickets, UploadTicket
from realtime.features.chat.ids import DIGITS, text_of
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.state import check_send
from realtime.features.chat.rules import KIND
from realtime.ids import RoomId, TenantId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

NONE_KEPT: Final = (
    "this server keeps no attachments: it needs chat_files_path or s3_bucket, and the extra `chat` installed"
)
NO_FILE: Final = "there is no such attachment, or none that you may read"
TRIES: Final = 5


class Files(Part):
    """See the module."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self._blobs = chat.services.blobs
        self._tickets = Tickets(chat.services.url_secret)
        self._base = self.settings.chat_files_url
        self._collector = None if self._blobs is None else Collector(chat, self._blobs)
        self._begun = 0
        self._used = 0
        self._linked = 0

    @property
    def blobs(self) -> Blobs:
        """Where files are kept. Raises Forbidden: nowhere."""
        if self._blobs is None:
            raise Forbidden(NONE_KEPT)
        return self._blobs

    # -- uploads --------------------------------------------------------------------------------------------

    async def begin(
        self, session: Session, room: RoomId | None, name: str, bytes: int, sha256: str
    ) -> Answer:
        """Let a session upload a file for a message in `room`.

        Raises:
            Forbidden: they may not write there, or no files are kept there.
            BadMessage: no room, or no name.
            TooLarge, QuotaExceeded: it is larger than it may be, or what they keep is.
        """
        room = await self._writable(session, room)
        named = clean_name(name)
        limit = self.settings.chat_file_bytes
        if bytes < 1:
            raise BadMessage("content: `bytes` has to say how many there are, 1 or more")
        if bytes > limit:
            text = f"the file has {bytes} bytes; {limit} are taken"
            raise TooLarge(text, limit="chat_file_bytes", allowed=limit)
        now_ms = self.chat.rooms.now_ms
        expires_ms = now_ms + self.settings.chat_upload_s * 1000
        user = identity_of(session).user
        for _ in range(TRIES):
            id = self.chat.ids.new(now_ms)
            file = File(
                id, room.tenant, room.room, user, named, bytes, sha256, "", "", expires_ms, 0, None, 0
            )
            if await self._keep(file, now_ms):
                self._begun += 1
                return self._upload(file)
            if not await self._forget_ended(room.tenant, user):
                await self._check_quotas(room.tenant, user, bytes)
        raise Unavailable("the upload could not be begun; try again", retry_after_s=1.0)

    async def resume(self, session: Session, room: RoomId | None, id: str) -> Answer:
        """Give the URL of an upload again, to whoever began it. Raises as `begin`."""
        room = await self._writable(session, room)
        file = await self._find(room.tenant, _read_id(id))
        if file is None or not _is_awaited(file, room, identity_of(session).user):
            raise BadMessage("you have no such upload in this room that waits for its bytes")
        if file.expires_ms <= self.chat.rooms.now_ms:
            raise BadMessage("this upload has expired: begin a new one")
        return self._upload(file)

    async def _writable(self, session: Session, room: RoomId | None) -> RoomId:
        if room is None:
            raise BadMessage("say in which `room` the file is to be sent")
        chat = self.chat
        look = await chat.rooms.look(session, room)
        rights = chat.core.membership.rights_in(session, chat.core.catalog.kinds[KIND], room.room)
        if "chat_message" not in rights.types:
            raise Forbidden("you may only read here")
        # Slow mode is for messages: an upload may well be begun between two of them.
        check_send(look.room, replace(look.standing, sent_ms=0), chat.rooms.now_ms)
        flags = chat.core.rules.of(room)
        if flags.end_to_end or flags.encrypted:
            raise Forbidden("this room is sealed, and attachments are not: it takes none")
        _ = self.blobs
        return room

    async def _keep(self, file: File, now_ms: int) -> bool:
        settings = self.settings
        *_, begun = await self.database.write(
            *rows.beginning(
                file,
                tenant_key(file.tenant),
                now_ms,
                user_bytes=settings.chat_files_bytes_per_user,
                tenant_bytes=settings.chat_files_bytes_per_tenant,
                awaited=settings.chat_uploads_open,
            )
        )
        return bool(begun)

    async def _forget_ended(self, tenant: TenantId, user: UserId) -> int:
        """Forget the uploads of somebody that were ended, or refused for what they were: of that the blobs
        alone know. Return how many there were.
        """
        ended = [
            id
            for (id,) in await self.database.read(rows.AWAITED, tenant, user)
            if await self.blobs.stat(upload_prefix(tenant, text_of(id)) + GONE) is not None
        ]
        if ended:
            await self.database.write(*(Statement(rows.FORGET, (id,)) for id in ended))
        return len(ended)

    async def _check_quotas(self, tenant: TenantId, user: UserId, bytes: int) -> None:
        """Say which limit it is that an upload does not fit into."""
        ((own, everyone, awaited),) = await self.database.read(rows.OF_USER, tenant, user)
        settings = self.settings
        if awaited >= settings.chat_uploads_open:
            allowed = settings.chat_uploads_open
            text = f"{awaited} of your uploads are in no message yet; {allowed} may be"
            raise QuotaExceeded(text, limit="chat_uploads_open", allowed=allowed)
        for limit, kept, whose in (
            ("chat_files_bytes_per_user", own, "your attachments"),
            ("chat_files_bytes_per_tenant", everyone, "all attachments here"),
        ):
            allowed = getattr(settings, limit)
            if allowed and kept + bytes > allowed:
                raise QuotaExceeded(
                    f"{whose} have {kept} bytes and may have {allowed}", limit=limit, allowed=allowed
                )

    def _upload(self, file: File) -> Answer:
        ticket = UploadTicket(file.tenant, text_of(file.id), file.bytes, file.expires_ms // 1000, file.wanted)
        return {
            "id": ticket.id,
            "url": self._tickets.url(ticket, self._base),
            "expires_at": stamp(ticket.expires_s * 1000),
        }

    # -- in messages ----------------------------------------------------------------------------------------

    async def claim(self, command: Command, attachments: Sequence[str]) -> list[dict[str, Any]]:
        """Return what a message says of its attachments, by their ids, which are in use from then on. A
        repeat of the message, by its key, may claim them again; so may another one until the first is sent.

        Raises:
            BadMessage: there is no such attachment of this sender in this room, or it is not whole yet, or
                another message has it.
        """
        if not attachments:
            return []
        limit = self.settings.chat_message_files
        if len(attachments) > limit or len(set(attachments)) < len(attachments):
            raise BadMessage(f"a message has at most {limit} attachments, each once")
        found = [(await self._claimable(command, id)) for id in attachments]
        fresh = [(file, about) for file, about in found if file.message is None]
        if fresh:
            await self._use(command, fresh)
        self._used += len(fresh)
        return [file.described(about) for file, about in found]

    async def _claimable(self, command: Command, id: str) -> tuple[File, About]:
        file = await self._find(command.room.tenant, _read_id(id))
        if file is None or file.user != command.identity.user or file.place != command.room:
            raise BadMessage(f"you have uploaded no attachment {id[:DIGITS]} for this room")
        if file.removed_ms:
            raise BadMessage(f"attachment {id} was removed")
        if file.message is not None and (not command.key or file.claim_key != command.key):
            raise BadMessage(f"attachment {id} is part of another message")
        if file.used_ms:
            return file, _about(file)
        about = await about_of(self.blobs, file.tenant, text_of(file.id))
        if about is None:
            raise BadMessage(f"attachment {id} is not whole: its upload has not come to its end")
        return file, about

    async def _use(self, command: Command, found: Sequence[tuple[File, About]]) -> None:
        """Put them to use: first what they refer to, which is not collected from then on, and looked for."""
        now_ms, folder = self.chat.rooms.now_ms, tenant_key(command.room.tenant)
        hashes = {part.sha256 for _, about in found for part in (about.file, about.thumbnail) if part}
        touched = await self.database.write(*rows.touching(folder, hashes, now_ms))
        kept = [bool(each) for each in touched] + [
            await self.blobs.stat(file_key(command.room.tenant, each)) is not None for each in hashes
        ]
        if not all(kept):
            raise BadMessage("an attachment was removed, being in no message for too long: upload it again")
        used = await self.database.write(
            *(
                rows.using(file.id, about, msgspec.json.encode(about).decode(), command.key or "", now_ms)
                for file, about in found
            )
        )
        if not all(used):
            raise BadMessage("an attachment is part of another message, or was removed")

    # -- reading --------------------------------------------------------------------------------------------

    async def link(self, session: Session, id: str) -> Answer:
        """Return a URL to read an attachment by, for somebody who may read the message that it is in.

        Raises:
            Forbidden: there is none, or none that they may read: the same word for word.
        """
        _ = self.blobs
        now_ms = self.chat.rooms.now_ms
        found = await self.database.read(rows.SHOWN, session.tenant.id, _number(id) or 0, now_ms)
        file = file_of(found[0]) if found else None
        if file is None or not await self._may_read(session, file.place):
            raise Forbidden(NO_FILE)
        self._linked += 1
        about = _about(file)
        expires_s = self._expires_s()
        answer = file.described(about) | {"url": self._url(file, about.file, expires_s)}
        answer.pop("thumbnail", None)
        if about.thumbnail is not None:
            answer["thumbnail"] = self._url(file, about.thumbnail, expires_s)
        return answer | {"expires_at": stamp(expires_s * 1000)}

    async def _may_read(self, session: Session, room: RoomId) -> bool:
        return self.chat.may_read(session, room) and await self.chat.rooms.admits(identity_of(session), room)

    def _expires_s(self) -> int:
        """Half of its time from now at least, and the same for all who ask in the other half: so that a
        browser that has it need not fetch it again.
        """
        half = max(1, self.settings.chat_download_s // 2)
        return (int(self.clock.time()) // half + 2) * half

    def _url(self, file: File, part: Shown, expires_s: int) -> str:
        ticket = FileTicket(
            tenant=file.tenant,
            id=text_of(file.id),
            sha256=part.sha256,
            bytes=part.bytes,
            name=file.name,
            type=part.type,
            inline=part.inline,
            expires_s=expires_s,
        )
        return self._tickets.url(ticket, self._base)

    async def content(self, tenant: TenantId, id: int) -> tuple[File, AsyncIterator[bytes]]:
        """Return an attachment and its bytes, whoever may read it: for exports.

        Raises:
            KeyError: there is none, or it is in no message. While it is read: its file was removed.
        """
        file = await self._find(tenant, id)
        if file is None or not file.used_ms:
            raise KeyError(id)
        return file, self.blobs.read(file_key(tenant, _about(file).file.sha256))

    async def erase(self, tenant: TenantId, user: UserId) -> int:
        """Remove all attachments of somebody; return how many there were. What is held stays for so long."""
        now_ms = self.chat.rooms.now_ms
        (removed,) = await self.database.write(Statement(rows.ERASE, (tenant, user, now_ms)))
        return len(removed)

    async def _find(self, tenant: TenantId, id: int) -> File | None:
        found = await self.database.read(rows.BY_ID, tenant, id)
        return file_of(found[0]) if found else None

    # -- the part -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """As `Part.tick`."""
        if self._collector is not None:
            self._collector.tick()

    def stats(self) -> dict[str, int]:
        """As `Part.stats`."""
        if self._blobs is None or self._collector is None:
            return {}
        return {
            "chat_files_ok": int(self._blobs.ok),
            "chat_uploads_begun_total": self._begun,
            "chat_files_used_total": self._used,
            "chat_files_linked_total": self._linked,
            **self._collector.stats(),
        }


def _about(file: File) -> About:
    return read_about(file.about)


def _is_awaited(file: File, room: RoomId, user: UserId) -> bool:
    return file.place == room and file.user == user and not file.used_ms and not file.removed_ms


def _read_id(text: str) -> int:
    number = _number(text)
    if number is None:
        raise BadMessage(f"{text[:32]!r} is no id of an attachment: those are {DIGITS} digits")
    return number


def _number(text: str) -> int | None:
    if len(text) != DIGITS or not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    return number if number < 1 << 63 else None
