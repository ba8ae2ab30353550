"""The settings of attachments: where they are kept, and how many. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Bytes, Count, Seconds, Text

MB: Final = 1024 * 1024
TB: Final = 1024 * 1024 * MB


class FilesSettings(ClusterSettings, frozen=True, kw_only=True):
    """See `Settings`."""

    # -- attachments ----------------------------------------------------------------------------------------
    chat_files_path: Annotated[
        str,
        Meta(
            description="Folder of attachments, made with the first; all processes of one machine may share "
            "it. auto: beside the SQLite file, and none in a cluster. Empty: none.",
            extra=Text,
        ),
    ] = "auto"
    chat_files_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-])?)?$",
            description="Where clients reach `realtime api`, such as https://files.example.com; empty: each "
            "worker takes and gives attachments on its own port.",
            extra={"unit": "url"},
        ),
    ] = ""
    chat_url_secret: Annotated[
        str,
        Meta(
            description="Key that signs URLs of attachments; 32 bytes or more, the same in all processes. "
            "Empty: made at the start, by a worker that is alone.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ""
    chat_api_port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port of `realtime api`.", extra={"unit": "port"})
    ] = 8001
    chat_file_bytes: Annotated[int, Meta(ge=1, le=TB, description="Largest attachment.", extra=Bytes)] = (
        64 * MB
    )
    chat_files_bytes_per_user: Annotated[
        int,
        Meta(
            ge=0, le=1000 * TB, description="Bytes of attachments a user may keep; 0: no limit.", extra=Bytes
        ),
    ] = 1024 * MB
    chat_files_bytes_per_tenant: Annotated[
        int,
        Meta(
            ge=0,
            le=1000 * TB,
            description="Bytes of attachments a tenant may keep; 0: no limit.",
            extra=Bytes,
        ),
    ] = 0
    chat_message_files: Annotated[
        int, Meta(ge=0, le=10, description="Attachments a message may have.", extra=Count)
    ] = 10
    chat_uploads_open: Annotated[
        int, Meta(ge=1, le=1000, description="Uploads of a user that are in no message yet.", extra=Count)
    ] = 20
    chat_upload_s: Annotated[
        int,
        Meta(
            ge=60,
            le=86_400 * 7,
            description="From the asking for an upload to the message that has it; else it is removed.",
            extra=Seconds,
        ),
    ] = 86_400
    chat_download_s: Annotated[
        int,
        Meta(
            ge=10,
            le=86_400,
            description="How long a URL of an attachment can be read at most; half of it at least.",
            extra=Seconds,
        ),
    ] = 3600
    chat_image_pixels: Annotated[
        int,
        Meta(
            ge=10_000,
            le=1_000_000_000,
            description="Pixels of an image that is taken, over all its frames; 4 bytes of memory each.",
            extra=Count,
        ),
    ] = 50_000_000
    chat_thumbnail_px: Annotated[
        int,
        Meta(ge=16, le=2048, description="Longer side of an image's thumbnail.", extra={"unit": "pixels"}),
    ] = 480

    # -- files in S3 ----------------------------------------------------------------------------------------
    s3_endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s?#@]+)?$",
            description="Server of S3, or of its protocol, that keeps attachments instead of a folder.",
            extra={"unit": "url", "env": "S3_ENDPOINT"},
        ),
    ] = ""
    s3_bucket: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
            description="Bucket of attachments. It has to be there.",
            extra={"unit": "text", "env": "S3_BUCKET"},
        ),
    ] = ""
    s3_region: Annotated[
        str,
        Meta(min_length=1, description="Region of the bucket.", extra={"unit": "text", "env": "S3_REGION"}),
    ] = "us-east-1"
    s3_access_key: Annotated[
        str,
        Meta(
            description="Whose bucket it is; empty: as AWS's own tools find it (profile, role).",
            extra={"unit": "text", "env": "S3_ACCESS_KEY", "secret": True},
        ),
    ] = ""
    s3_secret_key: Annotated[
        str,
        Meta(
            description="The secret of that access key.",
            extra={"unit": "text", "env": "S3_SECRET_KEY", "secret": True},
        ),
    ] = ""
