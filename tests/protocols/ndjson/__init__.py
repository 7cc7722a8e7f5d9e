"""A second client protocol, as small as one can be, to hold the seam open: it stands beside the native one and touches
nothing of the server.

    frame (a netstring)   3:[..],        payload: commands, one JSON array on each line
    client -> server      ["verb", id, argument ...]                 an empty payload answers a ping
    server -> client      ["ok", id, result]  ["no", id, code]       replies
                          ["push", channel, type, data, offset]      pushes and notices
                          (an empty payload)                         a ping
                          ["bye", code]                              a refusal that ends the connection
"""
