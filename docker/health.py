"""A container's health check: where a live page is served (CLIPGRU_HEALTH_URL) it must answer; else all is well."""

import os
import sys
import urllib.error
import urllib.request

url = os.environ.get("CLIPGRU_HEALTH_URL")
if url:
    try:
        urllib.request.urlopen(url, timeout=4).close()
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"{url}: {error}")
