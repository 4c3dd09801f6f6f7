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

LABEL_CONFIG = 1024 * 1024
"""Characters: one with a thousand labels has a tenth of it."""

CONFIG_TAGS = 10_000
"""Of a label config, with its labels; it is looked through at every call."""

CONFIG_DEPTH = 100
"""Of its tags in each other; people write ten."""

CONFIG_NAMES = 5_000
"""That its labels have for a model, which may look at each picture once for each of them."""

# --- Weights and model versions ---

# --- Requests to the backend ---

CONNECTIONS = 400
"""That are open at once: each is a file, of which a process may often have 1024. One more closes the idlest."""

HEADER = 32 * 1024
"""Of a request: a browser sends the cookies of all that runs on this host, whatever its port."""

TASKS_BODY = 100 * 1024 * 1024
"""Of /predict and /webhook: a task comes with its annotations, and one of 60 brushed frames has some 3 MB."""

SETUP_BODY = 8 * 1024 * 1024
"""Of /setup: a label config, of which JSON may write each byte as six."""

SMALL_BODY = 64 * 1024
"""Of every other path, whose fields are names and numbers."""

BODY_PARTS = 2_000_000
"""Objects and lists of a body, of which three bytes can make a hundred: so many are 50,000 tasks and more."""

BODIES_AT_ONCE = 128 * 1024 * 1024
"""Of all large bodies that are being received or worked on: parsed, each byte may become ten and more."""

CHUNK_LINE = 1024
"""Of a chunk's size and of what follows the last chunk, of a body that comes in chunks."""

HEADER_SECONDS = 10
"""From a request's first byte to the end of its header, which is one packet or two."""

BODY_SECONDS = 100
"""For a body: as long as Label Studio itself waits for an answer of /predict."""

ANSWER_SECONDS = 60
"""For the client to take its answer."""

IDLE_SECONDS = 30
"""Between two requests of a connection, and before its first."""

LINGER_SECONDS = 3
"""For a refused client to stop sending and read why: closed at once, the connection would be reset before that."""

WRONG_PASSWORDS = 10
"""From one address without a pause: a person who mistypes, or a Label Studio that has the old one."""

LONGEST_PAUSE = 60
"""Seconds that an address waits at most for its next try; long enough to make guessing hopeless."""

ADDRESSES = 1000
"""Whose tries are remembered, the newest; a caller that has more of them is not kept out by counting."""

ADDRESS = 2000
"""Characters, of what Label Studio says that it is called; no browser is sure to take a longer one."""

TITLE = 200
"""Characters, of what a project's settings name as its model version; a name of ours has at most 100."""

# --- Jobs, and what is kept of them in Redis ---

SENTENCE = 2000
"""Characters, of anything that is told: an error may quote what it is about."""

REMARKS = 20
"""That the backend remembers; more are on no page that people read."""

PROJECTS = 1000
"""That are known at once; the bound is for a caller that makes them up."""

PROJECTS_SIZE = 32 * 1024 * 1024
"""Characters that are kept of all projects, which the status page reads: a thousand configs of 30 kB."""
