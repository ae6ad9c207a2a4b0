"""`eskerctl`: etcdctl's commands over HTTP/JSON; a client that imports nothing of the server.

`client` speaks to members, `options` holds the flags that every command takes, `output` the four
formats; the other files are one group of commands each.
"""
