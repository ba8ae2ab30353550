"""Files in a bucket of S3, or of any server that speaks its protocol. Needs the extra `s3`.

boto3 waits for the network, so it does so on threads of its own. A file goes up as one object that is there
whole or not at all; over `PART_BYTES` in parts, which S3 joins at the end. That what is there stays as it is
rests on `If-None-Match: *`: a server that does not know it may replace a file by one of the same key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from realtime.core.blobs import Blob, checked_key
from realtime.errors import Unavailable

log: Final = logging.getLogger("realtime.blobs")

PART_BYTES: Final = 8 * 1024 * 1024  # S3 takes 10,000 parts: 80 GB
READ_BYTES: Final = 256 * 1024
THREADS: Final = 8
CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 30.0
THERE: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
ABSENT: Final = frozenset({"NoSuchKey", "NotFound", "404"})

Found = TypeVar("Found")


class S3Blobs:
    """A `Blobs`. An empty `endpoint` is Amazon's own; without `access_key` boto3 looks where it does."""

    def __init__(
        self, endpoint: str, bucket: str, *, region: str, access_key: str = "", secret_key: str = ""
    ) -> None:
        self._bucket = bucket
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="realtime-s3")
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=region,
            aws_access_key_id=access_key or None,
            aws_secret_access_key=secret_key or None,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"mode": "standard", "max_attempts": 3},
                max_pool_connections=THREADS,
                # A server of one's own has rarely a name for each bucket.
                s3={"addressing_style": "path" if endpoint else "auto"},
                # Others than Amazon's do not all know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self.ok = True

    async def put(self, key: str, content: AsyncIterator[bytes]) -> int:
        """As `Blobs.put`."""
        there = await self.stat(key)
        if there is not None:
            return there.bytes
        upload: str | None = None
        parts: list[dict[str, Any]] = []
        waiting, length = bytearray(), 0
        try:
            async for piece in content:
                waiting += piece
                length += len(piece)
                while len(waiting) >= PART_BYTES:
                    upload = upload or await self._begin(key)
                    parts.append(await self._part(key, upload, len(parts) + 1, bytes(waiting[:PART_BYTES])))
                    del waiting[:PART_BYTES]
            if upload is None:
                await self._ask("put_object", Key=key, Body=bytes(waiting), IfNoneMatch="*")
                return length
            if waiting:
                parts.append(await self._part(key, upload, len(parts) + 1, bytes(waiting)))
            await self._ask(
                "complete_multipart_upload",
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
        except _ThereAlreadyError:
            there = await self.stat(key)
            if there is None:  # and gone again
                raise Unavailable("the file was removed while it was kept; try again") from None
            await self._abort(key, upload)
            return there.bytes
        except BaseException:
            await asyncio.shield(self._abort(key, upload))
            raise
        return length

    async def touch(self, key: str) -> Blob | None:
        """As `Blobs.touch`."""
        source = {"Bucket": self._bucket, "Key": checked_key(key)}
        with contextlib.suppress(KeyError):
            await self._ask("copy_object", Key=key, CopySource=source, MetadataDirective="REPLACE")
        return await self.stat(key)

    async def stat(self, key: str) -> Blob | None:
        """As `Blobs.stat`."""
        try:
            found = await self._ask("head_object", Key=checked_key(key))
        except KeyError:
            return None
        return Blob(key, found["ContentLength"], int(found["LastModified"].timestamp() * 1000))

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As `Blobs.read`."""
        if end is not None and end <= start:
            if await self.stat(key) is None:
                raise KeyError(key)
            return
        wanted = (
            {} if not start and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        )
        try:
            found = await self._ask("get_object", Key=checked_key(key), **wanted)
        except _BeyondError:
            return
        body = found["Body"]
        try:
            while piece := await self._run(body.read, READ_BYTES):
                yield piece
        finally:
            body.close()

    async def delete(self, key: str) -> None:
        """As `Blobs.delete`."""
        await self._ask("delete_object", Key=checked_key(key))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[Blob]:
        """As `Blobs.list`."""
        place = {"StartAfter": after} if after else {}
        while True:
            found = await self._ask("list_objects_v2", Prefix=prefix, **place)
            for each in found.get("Contents", ()):
                yield Blob(each["Key"], each["Size"], int(each["LastModified"].timestamp() * 1000))
            if not found.get("IsTruncated"):
                return
            place = {"ContinuationToken": found["NextContinuationToken"]}

    async def tidy(self, prefix: str, before_ms: int) -> int:
        """As `Blobs.tidy`."""
        # A bucket may be somebody else's too: theirs is left alone, whatever a server makes of the prefix.
        found = [each async for each in self._unfinished(prefix) if each["Key"].startswith(prefix)]
        old = [each for each in found if each["Initiated"].timestamp() * 1000 < before_ms]
        for each in old:
            await self._abort(each["Key"], each["UploadId"])
        return len(old)

    async def _unfinished(self, prefix: str) -> AsyncIterator[dict[str, Any]]:
        place: dict[str, str] = {}
        while True:
            found = await self._ask("list_multipart_uploads", Prefix=prefix, **place)
            for each in found.get("Uploads", ()):
                yield each
            if not found.get("IsTruncated"):
                return
            place = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}

    async def close(self) -> None:
        """As `Blobs.close`."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._s3.close()

    async def _begin(self, key: str) -> str:
        return str((await self._ask("create_multipart_upload", Key=key))["UploadId"])

    async def _part(self, key: str, upload: str, number: int, body: bytes) -> dict[str, Any]:
        sent = await self._ask("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    async def _abort(self, key: str, upload: str | None) -> None:
        if upload is not None:
            with contextlib.suppress(Unavailable, KeyError):  # `tidy` finds it
                await self._ask("abort_multipart_upload", Key=key, UploadId=upload)

    async def _ask(self, operation: str, **given: Any) -> Any:
        return await self._run(getattr(self._s3, operation), Bucket=self._bucket, **given)

    async def _run(self, work: Callable[..., Found], *given: object, **named: object) -> Found:
        """Do it on a thread.

        Raises:
            KeyError: there is no such file.
            _ThereAlreadyError: there is one, and there was to be none.
            Unavailable: whatever else the server says, or that it says nothing.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, lambda: work(*given, **named))
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ABSENT:
                raise KeyError(named.get("Key", "")) from error
            if code in THERE:
                raise _ThereAlreadyError from error
            if code in ("InvalidRange", "416"):
                raise _BeyondError from error
            raise self._failed(error) from error
        except (BotoCoreError, OSError) as error:
            raise self._failed(error) from error
        self.ok = True
        return found

    def _failed(self, error: Exception) -> Unavailable:
        self.ok = False
        log.error("bucket %s cannot be used: %s", self._bucket, error)
        return Unavailable("files cannot be kept or read now; try again", retry_after_s=5.0)


class _ThereAlreadyError(Exception):
    """The key has a file."""


class _BeyondError(Exception):
    """A range begins after the last byte."""
