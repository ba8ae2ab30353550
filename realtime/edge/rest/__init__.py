"""The REST API and the dashboard: what `realtime api` serves beside attachments. Needs the extra `api`."""
