"""Store: finished tiles on disk, so that whatever was measured once is never measured again."""
