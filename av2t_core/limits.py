"""How large may be what comes from outside: every bound, with its reason.

Beyond them nothing is read on: whoever sent it is told the bound. Sizes are bytes and times seconds, unless the name
says otherwise.
"""

# --- What servers answer ---

ERROR_BODY = 64 * 1024
"""Of an answer that is an error: its sentence is at the beginning, and a server may go on for ever."""

API_ANSWER = 1 << 30
"""Of Label Studio's API: the predictions of a task with thousands of masks are hundreds of megabytes of JSON."""

# --- Clips ---

# --- Label configs and annotations ---

# --- Weights and model versions ---

# --- Requests to the backend ---

# --- Jobs, and what is kept of them in Redis ---
