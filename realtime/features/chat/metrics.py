"""What the chat counts on a worker: names for /metrics, `_total` for a counter, and what they mean."""

from __future__ import annotations

from typing import Final

ALWAYS: Final = {
    "chat_classifier_asked_total": "Messages that the outside classifier was asked about.",
    "chat_classifier_failed_total": "Of these those that it gave no answer for.",
    "chat_expired_total": "Messages deleted because their time was over.",
    "chat_filter_masked_total": "Messages that the rules changed.",
    "chat_filter_refused_total": "Messages that the rules refused.",
    "chat_flagged_total": "Messages that the rules gave to the moderators.",
    "chat_imported_total": "Messages that were imported.",
    "chat_mentions_told_total": "Users who were told that a message names them.",
    "chat_messages_total": "Messages sent in rooms that this worker owns.",
    "chat_messages_waiting": "Messages that wait for what their rooms have to look up.",
    "chat_people": "Users whose presence is known here.",
    "chat_reads_total": "Read positions written.",
    "chat_reads_waiting": "Read positions that have still to be written.",
    "chat_reports_total": "Messages reported to moderators.",
    "chat_retention_deleted_total": "Messages deleted for their age.",
    "chat_rooms_owing": "Chat rooms whose last change has still to be told.",
    "chat_rooms_owned": "Chat rooms that this worker owns and has in memory.",
    "chat_scheduled_sent_total": "Messages that were sent at their time.",
    "chat_search_rows_total": "Messages that searches had to look at.",
    "chat_searches_total": "Searches.",
    "chat_standings_known": "What users are in those rooms, in memory.",
    "chat_typists": "Users who type in rooms that this worker owns.",
}
WITH_FILES: Final = {
    "chat_blobs_collected_total": "Files deleted here that no message referred to any more.",
    "chat_download_bytes_total": "Bytes of attachments sent.",
    "chat_downloads_running": "Attachments that are being sent.",
    "chat_files_collected_total": "Attachments that were removed, and whose rows were deleted here.",
    "chat_files_linked_total": "Attachments that somebody was given a URL of.",
    "chat_files_ok": "1 while what keeps the files answers, 0 while it does not.",
    "chat_files_used_total": "Attachments that messages came to refer to.",
    "chat_upload_bytes_total": "Bytes of attachments received.",
    "chat_upload_pieces_collected_total": "Remains of uploads whose time was over, deleted here.",
    "chat_uploads_begun_total": "Uploads that were asked for.",
    "chat_uploads_finished_total": "Uploads that came to be files.",
    "chat_uploads_refused_total": "Uploads that were whole and refused for what they were.",
    "chat_uploads_running": "Uploads that are being received.",
}
METRICS: Final = ALWAYS | WITH_FILES
