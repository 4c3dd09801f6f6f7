"""How large may be what comes from outside: every bound, with its reason.

Beyond them nothing is read on: whoever sent it is told the bound. Sizes are bytes and times seconds, unless the name
says otherwise.
"""

# --- What servers answer ---

ERROR_BODY = 64 * 1024
"""Of an answer that is an error: its sentence is at the beginning, and a server may go on for ever."""

API_ANSWER = 1 << 30
"""Of Label Studio's API: the predictions of a task with thousands of masks are hundreds of megabytes of JSON."""

LEAST_RATE = 16_000
"""Bytes a second, on average, that a server has to send: a slower one holds a worker that others wait for. A clip of
2 GB takes a day and a half at this rate, so `FETCH_SECONDS` ends it before."""

PATIENCE = 60
"""Seconds that a server may take in all before `LEAST_RATE` counts: it may have to compute before it answers."""

API_SECONDS = 600
"""For one answer of Label Studio's API."""

FETCH_SECONDS = 3600
"""For one clip."""

SHOWN_URL = 200
"""Characters of a clip's address in a sentence: a data URL may be as long as a clip."""

# --- Clips ---

# --- Label configs and annotations ---

# --- Weights and model versions ---

# --- Requests to the backend ---

# --- Jobs, and what is kept of them in Redis ---
