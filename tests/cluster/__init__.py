"""Black-box suites: real processes, real sockets, real kills; nothing of the server is imported."""
