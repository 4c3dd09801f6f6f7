"""The ML backend that Label Studio talks to: it validates, enqueues and answers."""
